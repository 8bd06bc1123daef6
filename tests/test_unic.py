"""UniC after other solvers, and the Runge-Kutta methods of DEIS, written out or against what they are equal to."""

import functools
import itertools

import jax
import numpy as np
import pytest

import jaxsamplers as js
from jaxsamplers.solvers.deis_rk import METHODS
from tests.reference import problem
from tests.replay import replay
from tests.test_solvers import exact_problem

VP = js.processes.vp_linear()
solvers = js.solvers


def denoise(x, t, **extra):
    return problem.denoise(x, float(VP.alpha(t)), float(VP.sigma(t)))


def draw(sampler):
    return replay(sampler, denoise, problem.STARTS)


@pytest.mark.parametrize("order", [1, 2])
def test_unic_after_unip_is_unipc(order, x64):
    """UniP-1 is DDIM, UniP-2 of bh2 the midpoint rule; in both predictions, with the same steps uncorrected."""
    times = js.schedules.uniform(VP, 8)
    for prediction, solver in (("x0", solvers.dpm_solver_pp), ("epsilon", solvers.dpm_solver)):
        options = {"order": order, "prediction": prediction, "uncorrected": (1,)}
        plain = functools.partial(solver, order=order)
        both = jax.jit(lambda t: (solvers.unic(VP, t, solver=plain, **options), solvers.unipc(VP, t, **options)))  # noqa: B023
        a, b = both(times)
        np.testing.assert_allclose(draw(a), draw(b), rtol=1e-9)


def test_unic_after_deis_written_out(x64):
    """DEIS steps in t, UniC-2 in half-log-SNR on noises: the last step's weights by the integrals they stand for."""
    times = np.asarray(js.schedules.uniform(VP, 6))
    plain = functools.partial(solvers.deis, order=1)
    corrected, deis = jax.jit(
        lambda t: (solvers.unic(VP, t, solver=plain, order=1, prediction="epsilon", variant="exact"), plain(VP, t))
    )(times)
    alpha, sigma, u = (np.asarray(f(times)) for f in (VP.alpha, VP.sigma, VP.half_log_snr))
    nodes, weights = np.polynomial.legendre.leggauss(40)
    x = seen = problem.STARTS
    values = []
    for i in range(6):
        e = problem.epsilon(seen, alpha[i], sigma[i])
        if i:  # the trapezium's line through both ends of the last step, integrated
            h = u[i] - u[i - 1]
            inside = (nodes + 1) / 2
            integral = [h / 2 * np.sum(weights * np.exp(h * (1 - inside)) * f) for f in (1 - inside, inside)]
            x = alpha[i] / alpha[i - 1] * x - sigma[i] * (integral[0] * values[-1] + integral[1] * e)
        values.append(e)
        row = np.asarray(deis.rows.weights[i])
        held = values[-2] if i else 0 * e
        # DEIS's row on noises: e = (x - alpha m) / sigma
        newest = -row[0, -1] * sigma[i] / alpha[i]
        seen = alpha[i + 1] / alpha[i] * x + newest * e + row[0, 1] * held
    np.testing.assert_allclose(draw(corrected), seen, rtol=1e-9)


@pytest.mark.parametrize(
    ("solver", "order", "options"),
    [
        (solvers.ddim, 1, {}),
        (functools.partial(solvers.dpm_solver_pp, variant="exact"), 2, {}),
        (functools.partial(solvers.deis, order=1, variable="rho"), 2, {"prediction": "epsilon"}),
    ],
)
def test_unic_raises_the_order_by_one(solver, order, options, x64):
    process, model, x, exact = exact_problem("vp_linear")
    build = jax.jit(
        lambda t: js.sample(solvers.unic(process, t, solver=solver, order=order, variant="bh2", **options), model, x)
    )
    errors = [np.linalg.norm(build(js.schedules.half_log_snr(process, n)) - exact, axis=-1).mean() for n in (128, 256)]
    assert abs(np.log2(errors[0] / errors[1]) - order - 1) < 0.25


@pytest.mark.parametrize(
    "solver",
    [solvers.ddpm, solvers.heun, functools.partial(solvers.deis_rk, variant="2heun")],
)
def test_unic_refuses_what_it_cannot_follow(solver):
    with pytest.raises(ValueError, match="deterministic solver with one network call a step"):
        jax.eval_shape(lambda t: solvers.unic(VP, t, solver=solver), js.schedules.uniform(VP, 4))


def test_unic_refuses_a_call_elsewhere():
    late = lambda process, times: solvers.ddim(process, times * 0.9)
    with pytest.raises(ValueError, match="at the step's own time"):
        solvers.unic(VP, js.schedules.uniform(VP, 4), solver=late)


def test_runge_kutta_is_runge_kutta_in_rho(x64):
    """Textbook steps on ``dy / d rho = e``, for every method, and Heun's as the house has it."""
    times = np.asarray(js.schedules.half_log_snr(VP, 4))
    alpha, sigma = np.asarray(VP.alpha(times)), np.asarray(VP.sigma(times))
    rho = sigma / alpha

    def slope(y, rho):
        alpha = 1 / np.sqrt(1 + rho**2)
        return problem.epsilon(alpha * y, alpha, alpha * rho)

    build = jax.jit(
        lambda t: ({v: solvers.deis_rk(VP, t, variant=v) for v in METHODS}, solvers.heun(VP, t, variable="rho"))
    )
    samplers, heun = build(times)
    np.testing.assert_allclose(draw(samplers["2heun"]), draw(heun), rtol=1e-9)
    for name, sampler in samplers.items():
        *a, b = METHODS[name]
        y = problem.STARTS / alpha[0]
        for start, end in itertools.pairwise(rho[:-1]):
            h, k = end - start, []
            for row in a:
                move = sum((w * e for w, e in zip(row, k, strict=True)), start=0 * y)
                k.append(slope(y + h * move, start + sum(row) * h))
            y = y + h * sum(w * e for w, e in zip(b, k, strict=True))
        y = y + (rho[-1] - rho[-2]) * slope(y, rho[-2])
        np.testing.assert_allclose(draw(sampler), alpha[-1] * y, rtol=1e-8, err_msg=name)
        assert len(sampler) == 3 * len(a) + 1


def test_runge_kutta_cannot_end_at_the_clean_end():
    with pytest.raises(ValueError, match="use lower_order_final=True"):
        solvers.deis_rk(VP, js.schedules.uniform(VP, 4, t_end=0.0), lower_order_final=False)
