import jax
import numpy as np
import pytest

import jaxsamplers as js
from jaxsamplers import comparison, problems
from jaxsamplers.tableau import Rows

from .cases import mixture

PROCESS = js.processes.vp_linear()


def rows(count):
    """A sampler of that many rows, and nothing else."""
    return js.Tableau(Rows(np.zeros(count), np.zeros((count, 1, 2)), np.zeros((count, 1))), ((0, 2, 0),))


@pytest.mark.parametrize(
    ("calls", "budget", "most"),
    [
        (lambda n: n, 7, 7),
        (lambda n: 2 * n - 1, 1, 1),
        (lambda n: 2 * n - 1, 40, 39),
        (lambda n: 2 * n - 1, 39, 39),
        (lambda n: 2 * n, 39, 38),
        (lambda n: 3 * n, 11, 9),
        (lambda n: 3 * n - 2, 1000, 1000),
        (lambda n: 7 * n, 1000, 994),
    ],
)
def test_the_most_steps_within_a_budget(calls, budget, most):
    asked = []

    def make(steps):
        asked.append(steps)
        return rows(calls(steps))

    assert calls(comparison.steps_within(make, budget)) == most
    assert len(asked) < 6  # found without trying every number


def test_reasons_why_nothing_fits():
    assert comparison.steps_within(lambda n: rows(2 * n), 1) == "makes more than 1 network call in one step"
    flow = js.processes.rectified_flow()
    task = comparison.Task(lambda x, t: x, np.zeros((1, 2)), np.zeros((1, 2)))
    schedules = {"uniform": lambda n: js.schedules.uniform(flow, n)}
    (found,) = comparison.measure({"dpm_solver": js.solvers.dpm_solver}, flow, schedules, {"zero": task}, [2])
    assert "needs signal at its first time" in found.refused[2]
    assert found.points == {"zero": []}


def test_a_number_of_steps_that_is_refused_is_passed_over():
    def odd_only(n):
        if n % 2 == 0:
            raise ValueError("the number of steps must be odd")
        return rows(n)

    assert comparison.steps_within(odd_only, 6) == 5


def test_padding_changes_no_error(x64):
    """Against the distance to the goal measured here, solver by solver; any goal will do."""
    process = js.processes.vp_linear()
    model = mixture(process)
    schedule = lambda steps: js.schedules.half_log_snr(process, steps)
    x = process.prior(jax.random.key(0), jax.ShapeDtypeStruct((5, 2), np.float64))
    goal = 0.1 * x
    task = comparison.Task(model, x, goal)
    names = ["ddim", "unipc", "ddpm"]
    chosen = {name: js.solvers.registry[name] for name in names}
    found = list(comparison.measure(chosen, process, {"even": schedule}, {"mixture": task}, [6]))
    assert [measured.solver for measured in found] == names
    assert [measured.stochastic for measured in found] == [False, False, True]
    for measured in found[:2]:
        sampler = chosen[measured.solver](process, schedule(6))
        apart = np.linalg.norm(js.sample(sampler, model, x) - goal, axis=1)
        expected = (6, 6, apart.mean(), np.median(apart))
        np.testing.assert_allclose(measured.points["mixture"], [expected], rtol=1e-8)
    assert not found[2].points


@pytest.mark.parametrize("name", ["mixture", "mixture-8"])
def test_problems_are_fixed_for_good(name):
    """The numbers a later leaderboard rests on."""
    problem = problems.registry[name]()
    means = problem.denoiser(PROCESS).means
    assert means.shape[1:] == problem.shape
    expected = {"mixture": [0.189053, -0.522748], "mixture-8": [-1.738266, -1.336643]}[name]
    np.testing.assert_allclose(means[0, :2], expected, atol=1e-5)


def test_the_digits_are_what_their_denoiser_knows():
    """At almost no noise it answers what it is shown, if that is a digit."""
    problem = problems.digits()
    model = problem.denoiser(PROCESS)
    digit = model.data.reshape(-1, *problem.shape)[:3]
    assert problem.shape == (8, 8, 1)
    np.testing.assert_allclose(model(digit, 1e-4), digit, atol=1e-2)
