"""Noise between steps: churn, ancestral steps, Restart; against the authors' programs and against exact moments."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsamplers as js
from jaxsamplers.solvers import (
    ancestral,
    ddim,
    dpm_solver_pp,
    dpm_solver_pp_singlestep,
    dpm_solver_pp_singlestep_ancestral,
    dpm_solver_singlestep,
    edm_stochastic,
    heun,
    restart,
    sde_dpm_solver_pp_singlestep,
)
from tests.cases import PROCESSES
from tests.linear_gaussian import moments
from tests.reference import problem
from tests.replay import replay

STEPS = (5, 8, 10, 20)
EDM = js.processes.edm()
churn = functools.partial(edm_stochastic, churn=4.0, churn_min=0.1, churn_max=10.0, noise_scale=1.007)


@functools.cache
def stored():
    return problem.load("edm")


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", ["edm", "vp"])
def test_edms_own_programs(name, steps, x64):
    """Algorithm 2, and the general sampler of the ablations on a variance-preserving process, in its own time."""
    process = {"edm": EDM, "vp": js.processes.vp_linear()}[name]
    if name == "edm":
        times, solver = js.schedules.karras(process, steps - 1, t_start=15.0, t_end=0.03), churn
    else:
        times, solver = js.schedules.uniform(process, steps - 1), functools.partial(churn, solver=heun)
    times = jnp.append(times, 0.0)
    sampler = jax.jit(lambda t: solver(process, t))(times)
    rows = np.zeros((2 * steps - 1, *problem.STARTS.shape))
    rows[1::2] = problem.NOISE[1:steps]  # theirs draws before a step, and of the first draw uses nothing
    model = lambda x, t: problem.denoise(x, float(process.alpha(t)), float(process.sigma(t)))
    found = replay(sampler, model, problem.STARTS * float(process.sigma(times[0])), rows)
    np.testing.assert_allclose(found, stored()[f"{name}-{steps}"], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("steps", STEPS)
def test_restarts_own_program(steps, x64):
    """It makes the grids of its intervals in float32."""
    times = jnp.append(js.schedules.karras(EDM, steps - 1, t_start=15.0, t_end=0.03), 0.0)
    intervals, repeats = {}, {}
    for points, again, low, high in ([3, 2, 0.2, 2.0], [4, 1, 3.0, 10.0]):
        k = int(np.argmin(abs(times - low)))
        intervals[k] = js.schedules.karras(EDM, points - 1, t_start=high, t_end=times[k]), again
        repeats[k] = points, again
    sampler = jax.jit(lambda t: restart(EDM, t, intervals=intervals, noise_scale=1.003))(times)
    rows = np.zeros((len(sampler), *problem.STARTS.shape))
    row = draw = 0
    for step in range(1, steps):  # theirs draws before every step too, and does not use it
        row, draw = row + 2, draw + 1
        points, again = repeats.get(step, (0, 0))
        for _ in range(again):
            rows[row - 1] = problem.NOISE[draw]
            row, draw = row + 2 * (points - 1), draw + points
    assert row + 1 == len(sampler)
    found = replay(sampler, lambda x, t: problem.denoise(x, 1.0, float(t)), problem.STARTS * 15.0, rows)
    np.testing.assert_allclose(found, stored()[f"restart-{steps}"], rtol=0, atol=2e-6)


def test_reductions(x64):
    """Ancestral steps of first order are DDIM; without noise the solver inside is all there is (the sample's rows)."""
    for process in (PROCESSES["vp_linear"], PROCESSES["rectified_flow"]):
        times = jax.jit(js.schedules.half_log_snr, static_argnums=1)(process, 4)

        def both(times, process=process):
            first_order = functools.partial(dpm_solver_pp_singlestep, order=1)
            eta = jnp.array([0.2, 1.0, 0.0, 0.6])
            pairs = [
                (ancestral(process, times, solver=first_order, eta=eta), ddim(process, times, eta=eta)),
                (edm_stochastic(process, times, churn=0.0), heun(process, times, variable="rho")),
                (ancestral(process, times, eta=0.0), dpm_solver_pp_singlestep(process, times)),
            ]
            return [[(t.rows.time, t.rows.weights[:, 0], t.rows.noise[:, 0]) for t in js.align(*p)] for p in pairs]

        for ours, known in jax.jit(both)(times):
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), ours, known)


SECOND = {
    "edm_stochastic": functools.partial(edm_stochastic, churn=20.0),
    "restart": restart,
    "restart-multistep": functools.partial(restart, solver=dpm_solver_pp),
    "ancestral": dpm_solver_pp_singlestep_ancestral,
    "ancestral-eta": functools.partial(ancestral, solver=dpm_solver_singlestep, eta=0.6),
    "sde-rho": sde_dpm_solver_pp_singlestep,
    "sde-exact": functools.partial(sde_dpm_solver_pp_singlestep, correlation="exact", eta=0.6),
    "sde-none": functools.partial(sde_dpm_solver_pp_singlestep, correlation="none"),
}


def test_order_of_the_variance(x64):
    """On data ``N(0.8, 0.5)`` by exact recursion: second order, but first if a step's draws are independent."""
    process = js.processes.vp_linear()
    errors = {name: [] for name in SECOND}
    for n in (100, 200):
        times = jax.jit(js.schedules.half_log_snr, static_argnums=1)(process, n)
        tables = jax.jit(lambda t: {name: solver(process, t) for name, solver in SECOND.items()})(times)
        alpha, sigma = float(process.alpha(times[0])), float(process.sigma(times[0]))
        true = float(process.alpha(times[-1])) ** 2 * 0.5 + float(process.sigma(times[-1])) ** 2
        for name, sampler in tables.items():
            _, variance = moments(process, sampler, 0.8, 0.5, alpha * 0.8, alpha**2 * 0.5 + sigma**2)
            errors[name].append(abs(variance[-1] - true))
    for name, (coarse, fine) in errors.items():
        assert abs(np.log2(coarse / fine) - (1 if name == "sde-none" else 2)) < 0.25, (name, coarse, fine)


def test_churn_stays_below_the_first_level(x64):
    times = js.schedules.karras(EDM, 30)
    time = jax.jit(lambda t: edm_stochastic(EDM, t, churn=1e3).rows.time)(times)
    raised = time[::2] / times[:-1]
    assert float(time.max()) == float(times[0])
    np.testing.assert_allclose(raised, jnp.minimum(2**0.5, times[0] / times[:-1]), rtol=1e-9)


def test_gradients_with_respect_to_options_are_finite_at_their_ends():
    process = js.processes.vp_linear()
    times = js.schedules.cosine(process, 4, t_end=0.0)

    def total(eta, amount, scale, times):
        tables = (
            ancestral(process, times, eta=eta, noise_scale=scale),
            sde_dpm_solver_pp_singlestep(process, times, eta=eta, noise_scale=scale),
            edm_stochastic(process, times, churn=amount, noise_scale=scale),
            ddim(process, times, eta=eta),
        )
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(tables))

    for eta, amount in ((0.0, 0.0), (1.0, 50.0)):
        gradients = jax.jit(jax.grad(total, argnums=(0, 1, 2, 3)))(eta, amount, 1.0, times)
        assert all(jnp.isfinite(g).all() for g in gradients)


TIMES = js.schedules.karras(EDM, 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: edm_stochastic(EDM, TIMES, churn=-1.0), "churn must be at least 0, got -1"),
        (lambda: edm_stochastic(EDM, TIMES, churn_max=float("nan")), "churn_max must be at least 0, got nan"),
        (lambda: ancestral(EDM, TIMES, eta=1.1), "eta must be at least 0 and at most 1, got 1.1"),
        (lambda: restart(EDM, TIMES, intervals={9: (TIMES, 1)}), "index of an interval must be from 1 to 4, got 9"),
        (lambda: restart(EDM, TIMES, intervals={2: (TIMES, 0)}), "repeats of an interval must be at least 1, got 0"),
        (lambda: restart(EDM, TIMES, intervals={2: (TIMES, 1)}), r"must end at times\[2\]"),
        (lambda: dpm_solver_singlestep(EDM, TIMES, order=(3, 2)), "one for each of the 4 steps, got 2"),
        (lambda: sde_dpm_solver_pp_singlestep(EDM, TIMES, correlation="non"), "unknown correlation 'non'"),
    ],
)
def test_bad_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
