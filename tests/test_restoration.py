"""Processes that drift to a degraded image, mean-reverting and residual-shifting: their laws and published samplers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsamplers as js
from jaxsamplers.tableau import concatenate
from tests.cases import like, mixture
from tests.reference import problem
from tests.replay import replay

MEAN = np.array([0.5, -0.3])
MR = {
    "ode_1": lambda p, t, last: js.solvers.dpm_solver_pp(p, t, order=1),
    "ode_2": lambda p, t, last: js.solvers.dpm_solver_pp(p, t, order=2, variant="exact", lower_order_final=last),
    "ode_3": lambda p, t, last: js.solvers.dpm_solver_pp(
        p, t, order=3, curvature=0.5, variant="exact", lower_order_final=last
    ),
    "ode_noise_2": lambda p, t, last: js.solvers.dpm_solver(p, t, order=2, variant="exact", lower_order_final=last),
    "sde_1": lambda p, t, last: js.solvers.sde_dpm_solver_pp(p, t, order=1),
    "sde_2": lambda p, t, last: js.solvers.sde_dpm_solver_pp(p, t, order=2, variant="exact", lower_order_final=last),
}


@pytest.fixture(scope="module")
def published():
    return problem.load("mean_reverting")


def centred(process):
    """The perfect network about the origin, as ``replay`` steps tables; the data do not know of the origin."""

    def denoise(x, t):
        alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
        return problem.denoise(x + alpha * MEAN, alpha, sigma) - MEAN

    return denoise


@pytest.mark.parametrize("name", MR)
@pytest.mark.parametrize("calls", [5, 8, 10, 20])
def test_the_mr_sampler_is_dpm_solver_pp_on_the_shifted_state(name, calls, published, x64):
    """Their code's numbers. It counts the speed of step 0, and below 10 calls its last step but one is lower order."""
    process = js.processes.mean_reverting(MEAN, published["thetas"], stationary=0.5)
    times = (np.round(np.linspace(100, 0, calls + 1)) + 1) / 101
    levels = jax.jit(lambda t: (process.alpha(t), process.sigma(t)))

    @jax.jit
    def build(times):
        whole = MR[name](process, times, False)
        if calls >= 10:
            return whole
        return concatenate(MR[name](process, times[:-1], True), whole[-1:])

    sampler = build(times)
    start = float(levels(times[0])[1]) * problem.STARTS
    ours = MEAN + replay(sampler, centred(process), start, problem.NOISE)
    np.testing.assert_allclose(ours, published[f"{name}_{calls}"], rtol=1e-6)


def test_ir_sde_law_and_posterior_sampling(published, x64):
    """Their arrays, and DDPM on ours against their sampler in all its 100 steps."""
    process = js.processes.mean_reverting(MEAN, stationary=0.5)
    times = np.arange(101) / 100
    np.testing.assert_allclose(process.alpha(times), published["alphas"], rtol=1e-12)
    np.testing.assert_allclose(process.sigma(times), published["sigmas"], rtol=1e-9)
    sampler = jax.jit(lambda times: js.solvers.ddpm(process, times))(times[::-1].copy())
    start = float(process.sigma(1.0)) * problem.STARTS
    ours = MEAN + replay(sampler, centred(process), start, problem.NOISE)
    np.testing.assert_allclose(ours, published["posterior"], rtol=1e-6)


def test_mean_reverting_solves_its_sde(x64):
    """``alpha' = -theta alpha``, ``(sigma^2)' = 2 theta (stationary^2 - sigma^2)``, within every step of the table."""
    speeds = np.array([0.3, 1.0, 0.5, 2.0])
    process = js.processes.mean_reverting(thetas=speeds, stationary=0.2, decay=0.01)
    theta = -np.log(0.01) * speeds / speeds.mean()
    t = (jnp.arange(4) + 0.4) / 4
    alpha_dot, sigma_dot = process.velocity_coefficients(t)
    np.testing.assert_allclose(alpha_dot, -theta * process.alpha(t), rtol=1e-12)
    sigma = process.sigma(t)
    np.testing.assert_allclose(2 * sigma * sigma_dot, 2 * theta * (0.2**2 - sigma**2), rtol=1e-9)
    np.testing.assert_allclose(process.alpha(1.0), 0.01, rtol=1e-12)


@pytest.mark.parametrize("calls", [5, 8, 10, 15, 20])
def test_resshift(calls, x64):
    """Their schedule, and their sampler's numbers in as many calls as the chain has steps."""
    theirs = problem.load("resshift")
    process = js.processes.residual_shifting(MEAN, kappa=0.8, steps=calls)
    index = np.arange(calls)
    roots = theirs[f"sqrt_etas_{calls}"]
    np.testing.assert_allclose(process.alpha((index + 1) / calls), 1 - roots**2, rtol=1e-9)
    np.testing.assert_allclose(process.sigma((index + 1) / calls), 0.8 * roots, rtol=1e-9)
    sampler = jax.jit(lambda times: js.solvers.resshift(process, times))(np.arange(calls, -1, -1) / calls)
    start = float(process.sigma(1.0)) * problem.STARTS
    ours = MEAN + replay(sampler, centred(process), start, problem.NOISE)
    np.testing.assert_allclose(ours, theirs[f"samples_{calls}"], rtol=1e-6)


def test_resshift_is_a_less_noisy_ddim(x64):
    """DDIM with the ``eta`` of the docstring's ``s``, below 1; DDPM itself where ``alpha`` is constant."""
    process, times = js.processes.residual_shifting(kappa=0.8, t_min=0.2), np.linspace(1.0, 0.2, 7)

    @jax.jit
    def build(times):
        alpha, sigma = process.alpha(times), process.sigma(times)
        ratio = sigma[1:] / sigma[:-1]
        eta = jnp.sqrt((1 - ratio**2) / (1 - (ratio * alpha[:-1] / alpha[1:]) ** 2))
        edm = js.processes.edm()
        pairs = (js.solvers.resshift(process, times), js.solvers.ddim(process, times, eta=eta))
        return eta, pairs, (js.solvers.resshift(edm, times), js.solvers.ddpm(edm, times))

    eta, *pairs = build(times)
    assert float(eta.max()) < 0.99
    for one, other in pairs:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), one.rows, other.rows)


@pytest.mark.parametrize("make", [js.processes.mean_reverting, js.processes.residual_shifting])
def test_solvers_converge_at_their_order(make, x64):
    """DPM-Solver++(2M), unchanged, to the exact flow of a drifting mixture; from the image with noise."""
    process = make(MEAN, t_min=0.3)
    x = process.prior(jax.random.key(0), like((8, 2)))
    assert float(jnp.abs(x.mean(0) - MEAN).max()) < 3 * float(process.sigma(1.0)) / np.sqrt(8)
    exact = np.asarray(js.adaptive.solve(process, mixture(process), x, rtol=1e-10, atol=1e-10))
    errors = []
    for steps in (64, 128):
        times = js.schedules.half_log_snr(process, steps)
        draw = jax.jit(lambda times: js.sample(js.solvers.dpm_solver_pp(process, times), mixture(process), x))
        errors.append(np.linalg.norm(draw(times) - exact, axis=-1).mean())
    assert errors[1] < 0.05
    assert abs(np.log2(errors[0] / errors[1]) - 2) < 0.3, errors


def test_forward_has_the_published_law():
    """ResShift's ``x0 + eta (y - x0) + kappa sqrt(eta) z``: 100,000 draws within 5 standard errors."""
    process = js.processes.residual_shifting(1.5, kappa=2.0)
    eta, n = 1 - float(process.alpha(0.6)), 100_000
    x = process.forward(jax.random.key(0), jnp.full((n, 1), -0.5), jnp.asarray(0.6))
    deviation = 2.0 * np.sqrt(eta)
    assert 0.1 < eta < 0.9
    assert abs(float(x.mean()) - (-0.5 + eta * 2.0)) < 5 * deviation / np.sqrt(n)
    assert abs(float(x.var()) / deviation**2 - 1) < 5 * np.sqrt(2 / n)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: js.processes.mean_reverting(thetas=np.ones((2, 2))), r"one-dimensional table, got shape \(2, 2\)"),
        (lambda: js.processes.mean_reverting(thetas=np.array([0.1, -0.2])), "thetas must be above 0"),
        (lambda: js.processes.mean_reverting(decay=1.0), "1 - decay must be above 0"),
        (lambda: js.processes.mean_reverting(stationary=0.0), "stationary must be above 0, got 0.0"),
        (lambda: js.processes.residual_shifting(steps=1), "steps must be at least 2, got 1"),
        (lambda: js.processes.residual_shifting(noise_min=4.0), "shift_max / shift_min must be above 1, got 0.495"),
        (lambda: js.processes.residual_shifting(shift_max=1.2), "shift_max must be above 0 and at most 1, got 1.2"),
    ],
)
def test_bad_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
