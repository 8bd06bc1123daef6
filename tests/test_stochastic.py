"""Stochastic solvers: what they reduce to, what they keep, and the programs of their authors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsamplers as js
from tests.cases import PROCESSES, like
from tests.linear_gaussian import moments
from tests.reference import problem
from tests.replay import replay

VP, EDM = PROCESSES["vp_linear"], PROCESSES["edm"]
KEY = jax.random.key(5)
s = js.solvers
power = lambda exponent: lambda rho: rho**exponent


def build(solver, process, times):
    """The table, made in one compiled piece."""
    return jax.jit(lambda t: solver(process, t))(times)


def ends(process, solvers, n=7):
    """What each solver makes of the mixture, from one start and one noise, in NumPy."""
    times = js.schedules.half_log_snr(process, n)
    model = lambda x, t: problem.denoise(x, float(process.alpha(t)), float(process.sigma(t)))
    start = float(process.sigma(times[0])) * problem.STARTS
    return [replay(build(solver, process, times), model, start, problem.NOISE) for solver in solvers]


@pytest.mark.parametrize("name", ["vp_linear", "edm"])
def test_equal_methods_are_equal(name, x64):
    """Derived apart, the same by mathematics: other registers, other formulas, one sample."""
    part = functools.partial
    pairs = [
        (part(s.sa_solver, order=3, corrector_order=0), part(s.sde_dpm_solver_pp, order=3, variant="exact")),
        (part(s.sa_solver, order=2, corrector_order=3, eta=0.0), part(s.unipc, order=2, variant="exact")),
        (part(s.sa_solver, order=1, corrector_order=2, eta=0.0, variant="bh1"), part(s.unipc, order=1, variant="bh1")),
        (part(s.seeds, order=3, eta=0.0), part(s.dpm_solver_pp_singlestep, order=3)),
        (part(s.seeds, order=2, eta=0.0), part(s.dpm_solver_pp_singlestep, order=2)),
        (part(s.seeds, order=1, eta=0.7), part(s.sde_dpm_solver_pp, order=1, eta=0.7)),
        (part(s.er_sde, order=1, noise_scale=power(1.7)), part(s.sde_dpm_solver_pp, order=1, eta=0.7)),
        (part(s.tcd, gamma=0.0), s.ddim),
        (part(s.tcd, gamma=1.0), s.consistency),
        (part(s.coefficients_preserving, eta=1.0), s.ddcm),
        (part(s.ddpm, variance=jnp.zeros(7)), s.ddpm),
    ]
    process = PROCESSES[name]
    for left, right in pairs:
        a, b = ends(process, [left, right])
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12, err_msg=str(left))


def test_cps_is_ddim_with_a_share_of_noise_that_ignores_the_step(x64):
    process = PROCESSES["rectified_flow"]
    times = js.schedules.uniform(process, 6, t_start=0.95)
    half_log_snr = process.half_log_snr(times)
    eta = jnp.sin(0.7 * jnp.pi / 2) / jnp.sqrt(-jnp.expm1(-2 * jnp.diff(half_log_snr)))
    assert float(eta.max()) > 1 > float(eta.min())  # beyond ddim's range in the shortest steps
    ours = build(functools.partial(s.coefficients_preserving, eta=0.7), process, times).rows
    fresh = eta * process.sigma(times[1:]) * jnp.sqrt(-jnp.expm1(-2 * jnp.diff(half_log_snr)))
    np.testing.assert_allclose(ours.noise[:, 0], fresh, rtol=1e-9)


FROM_NOISE = {
    "sde_dpm_solver_pp": functools.partial(s.sde_dpm_solver_pp, order=3),
    "sa_solver": functools.partial(s.sa_solver, order=3, corrector_order=3),
    "er_sde": s.er_sde,
    "consistency": s.consistency,
    "tcd": s.tcd,
    "coefficients_preserving": s.coefficients_preserving,
    "ddpm": s.ddpm,
}


@pytest.mark.parametrize("name", FROM_NOISE)
def test_from_pure_noise_to_the_clean_end(name, x64):
    """Data at one point on the straight path, both ends included: mean and variance exact at every row."""
    process = js.processes.rectified_flow()
    times = js.schedules.uniform(process, 6)
    mean, variance = moments(process, build(FROM_NOISE[name], process, times), 0.8, 0.0, 0.0, 1.0)
    np.testing.assert_allclose(mean, process.alpha(times[1:]) * 0.8, rtol=1e-9)
    np.testing.assert_allclose(variance, process.sigma(times[1:]) ** 2, rtol=1e-9)


WEAK = {  # what the variance of Gaussian data is computed to, at eta = 1
    "sa_solver-2": (functools.partial(s.sa_solver, corrector_order=0), 2.0),
    "sa_solver-2-2": (s.sa_solver, 3.0),
    "sa_solver-3-4": (functools.partial(s.sa_solver, order=3, corrector_order=4), 2.0),
    "seeds-2": (functools.partial(s.seeds, order=2), 2.0),
    "seeds-3": (s.seeds, 2.0),
    "er_sde-1": (functools.partial(s.er_sde, order=1), 1.0),
    "er_sde-2": (functools.partial(s.er_sde, order=2), 2.0),
    "er_sde-3": (functools.partial(s.er_sde, noise_scale=power(1.0)), 3.0),
    "er_sde-3-published": (functools.partial(s.er_sde, noise_scale=power(1.0), variant="published"), 2.0),
    "flow_sde": (s.flow_sde, 1.0),
}


@pytest.mark.parametrize("name", WEAK)
def test_weak_orders_on_gaussian_data(name, x64):
    """By exact recursion; the published order 3 of ER-SDE is order 2 even where there is no noise."""
    solver, order = WEAK[name]
    errors = []
    for n in (200, 400):
        times = js.schedules.half_log_snr(EDM, n)
        variance = moments(EDM, build(solver, EDM, times), 0.8, 0.5, 0.8, 0.5 + 80.0**2)[1]
        errors.append(abs(variance[-1] - 0.5 - 0.002**2))
    assert abs(np.log2(errors[0] / errors[1]) - order) < 0.25, errors


def test_er_sde_is_exact_for_a_quadratic_estimate(x64):
    """Where ``m`` is a quadratic polynomial of ``rho``, against the integral ``int d phi / phi^2 m`` on 2000 points."""
    phi = lambda rho: rho * (np.exp(rho**0.3) + 10)
    slope = lambda rho: np.exp(rho**0.3) + 10 + 0.3 * rho**0.3 * np.exp(rho**0.3)
    m = lambda rho: 0.3 - 0.8 * rho + 0.5 * rho**2
    times = js.schedules.karras(EDM, 6)
    sampler = build(s.er_sde, EDM, times)
    nodes, weights = np.polynomial.legendre.leggauss(400)
    x, start = 1.7, 2  # the third step is the first that sees three estimates
    for i in range(start, 6):
        rho, to = float(times[i]), float(times[i + 1])
        log_inside = np.log(to) + (nodes + 1) / 2 * np.log(rho / to)
        inside = np.exp(log_inside)
        integral = np.sum(weights / 2 * np.log(rho / to) * inside * slope(inside) / phi(inside) ** 2 * m(inside))
        expected = phi(to) / phi(rho) * x + phi(to) * integral
        sources = np.array([x, m(float(times[i - 1])), m(float(times[i - 2])), m(rho)])
        got = float(np.asarray(sampler.rows.weights[i, 0]) @ sources)
        np.testing.assert_allclose(got, expected, rtol=1e-10)


@pytest.mark.parametrize(
    ("solver", "option", "value"),
    [
        (s.consistency, "boundary", 0.004),
        (s.tcd, "gamma", 0.4),
        (s.flow_sde, "eta", 0.5),
        (s.ddpm, "variance", 0.7),
        (s.sa_solver, "eta", 0.5),
    ],
)
def test_options_have_gradients(solver, option, value, x64):
    """Of the samples, with respect to the times and the option, against finite differences; finite at the clean end."""
    model = lambda x, t: jnp.tanh(1.2 * x - t)
    x = VP.prior(KEY, like((3, 2)))
    times = js.schedules.half_log_snr(VP, 4, t_end=0.01)

    @jax.jit
    def loss(times, value):
        return jnp.sum(jnp.sin(js.sample(solver(VP, times, **{option: value}), model, x, KEY)))

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))
    slope_t, slope = gradients(times, value)
    bend = jnp.array([0.0, 1.0, -0.5, 0.3, 0.0]) * times
    np.testing.assert_allclose(slope, (loss(times, value + 1e-5) - loss(times, value - 1e-5)) / 2e-5, rtol=1e-6)
    moved = (loss(times + 1e-5 * bend, value) - loss(times - 1e-5 * bend, value)) / 2e-5
    np.testing.assert_allclose(slope_t @ bend, moved, rtol=1e-6)
    if option != "boundary":
        assert all(bool(jnp.isfinite(g).all()) for g in gradients(times.at[-1].set(0.0), value))


def test_ddpm_variances(x64):
    """Both bounds and what lies between, from the betas of a table."""
    betas = np.linspace(1e-4, 0.02, 1000)
    process = js.processes.from_betas(betas, t_min=0.0)
    index = np.array([999, 700, 400, 100, 0])
    times = jnp.asarray(np.append(index + 1, 0) / 1000)
    bar = np.append(np.cumprod(1 - betas)[index], 1.0)
    beta = 1 - bar[:-1] / bar[1:]
    small = beta * (1 - bar[1:]) / (1 - bar[:-1])
    for variance in (0.0, 0.3, 1.0):
        noise = build(functools.partial(s.ddpm, variance=variance), process, times).rows.noise[:, 0]
        expected = beta**variance * small ** (1 - variance)
        np.testing.assert_allclose(noise[:-1] ** 2, expected[:-1], rtol=1e-9)
        assert float(noise[-1]) == 0
