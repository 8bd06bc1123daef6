"""Other starts against exact solutions of the probability flow and exact moments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsamplers as js
from tests.cases import PROCESSES, like

KEY = jax.random.key(0)
MEAN = np.array([0.4, -1.0, 0.2])
ROOT = np.random.default_rng(0).normal(size=(3, 3)) * 0.6
FULL = ROOT @ ROOT.T + 0.1 * np.eye(3)
AXES = np.linalg.qr(ROOT)[0][:, :2]
SHIFTED = js.processes.shifted(PROCESSES["vp_linear"], jnp.array([0.3, 0.1, -0.2]))


@pytest.mark.parametrize("process", [SHIFTED, PROCESSES["rectified_flow"]])
def test_teleporting_is_the_flow_of_a_gaussian(process, x64):
    """Full, diagonal, single and low-rank covariances, against the adaptive solution for that Gaussian."""
    x, t = process.prior(KEY, like((4, 3))), 0.6
    low_rank = AXES * np.array([1.5, 0.3]) @ AXES.T
    solve = jax.jit(lambda model: js.adaptive.solve(process, model, x, t_end=t, rtol=1e-10, atol=1e-12))
    for covariance, full, axes in [
        (FULL, FULL, None),
        (np.diag(FULL), np.diag(np.diag(FULL)), None),
        (0.7, 0.7 * np.eye(3), None),
        (np.array([1.5, 0.3]), low_rank, AXES),
    ]:
        exact = solve(js.analytic.gaussian_mixture(process, MEAN[None], full[None]))
        jump = js.starts.gaussian_teleport(process, x, MEAN, covariance, t, axes=axes)
        np.testing.assert_allclose(jump, exact, rtol=1e-7)


def test_teleporting_saves_the_first_steps(x64):
    """A mixture of 8 dimensions: from the jump over a third of the range, the rest ends where the whole would."""
    process = PROCESSES["vp_linear"]
    rng = np.random.default_rng(1)
    means, variances = rng.normal(size=(4, 8)), np.full((4, 8), 0.1)
    model = js.analytic.gaussian_mixture(process, means, variances)
    covariance = np.cov(means, rowvar=False, bias=True) + 0.1 * np.eye(8)
    ends = process.half_log_snr(jnp.array([process.t_max, process.t_min]))
    t = process.time(ends[0] + 0.3 * (ends[1] - ends[0]))
    x = process.prior(KEY, like((64, 8)))
    solve = jax.jit(lambda x, t_start: js.adaptive.solve(process, model, x, t_start=t_start))
    exact = solve(x, process.t_max)
    distance = lambda start: float(jnp.mean(jnp.linalg.norm(solve(start, t) - exact, axis=1)))
    jump = distance(js.starts.gaussian_teleport(process, x, means.mean(axis=0), covariance, t))
    scaled = distance(process.sigma(t) / process.sigma(process.t_max) * x)
    assert jump < 0.005, jump
    assert scaled > 10 * jump, (scaled, jump)


def test_images_of_any_shape():
    process, x = PROCESSES["vp_linear"], jnp.ones((2, 4, 4, 1))
    diagonal = js.starts.gaussian_teleport(process, x, 0.0, jnp.full((4, 4, 1), 0.3), 0.5)
    full = js.starts.gaussian_teleport(process, x, 0.0, 0.3 * np.eye(16), 0.5)
    np.testing.assert_allclose(full, diagonal, rtol=1e-5)
    with pytest.raises(ValueError, match=r"covariance must be a number, or of shape \(4, 4, 1\), \(16, 16\) or"):
        js.starts.gaussian_teleport(process, x, 0.0, jnp.ones(5), 0.5)


def test_gaussian_starts_have_the_marginals_moments(x64):
    start = js.starts.gaussian_start(SHIFTED, KEY, (200_000, 3), MEAN, FULL, 0.5)
    alpha, sigma = SHIFTED.alpha(0.5), SHIFTED.sigma(0.5)
    origin = np.asarray(SHIFTED.origin)
    np.testing.assert_allclose(start.mean(axis=0), origin + alpha * (MEAN - origin), atol=0.01)
    np.testing.assert_allclose(np.cov(start, rowvar=False), alpha**2 * FULL + sigma**2 * np.eye(3), atol=0.02)


@pytest.mark.parametrize("boost", [1.0, 4.0])
def test_a_boost_survives_only_when_steps_are_skipped(boost, x64):
    """The exact linear response of the reverse SDE to the variance of its start, by one table's rows."""
    process, variance = PROCESSES["edm"], 1.0
    start = js.starts.boost_and_skip(process, KEY, (100_000, 1), 2.0, boost=boost)
    np.testing.assert_allclose(jnp.std(start), boost * 2.0, rtol=0.01)
    # reverse SDE to the clean end from N(0, (boost s)^2): v + v^2 ((boost s)^2 - s^2 - v) / (v + s^2)^2
    times = js.schedules.exponential(process, 200, t_start=2.0)
    sampler = jax.jit(lambda t: js.solvers.sde_dpm_solver_pp(process, t))(times)
    model = js.analytic.gaussian_mixture(process, np.zeros((1, 1)), variance)
    end = jax.jit(js.sample)(sampler, model, start, jax.random.key(1))
    exact = variance + variance**2 * ((2 * boost) ** 2 - 4 - variance) / (variance + 4) ** 2
    np.testing.assert_allclose(jnp.var(end), exact, rtol=0.02)


def test_the_best_start_is_the_one_that_restores_best(x64):
    """Against one run a candidate, on Gaussians given noisy observations of them."""
    process = PROCESSES["vp_linear"]
    clean = jax.random.normal(KEY, (5, 3))
    seen = js.guidance.conditional(
        lambda x, t, low: low + (x - process.alpha(t) * low) / 3, {"low": clean + 0.1 * jnp.cos(clean)}
    )
    sampler = jax.jit(lambda t: js.solvers.ddim(process, t))(jax.jit(js.schedules.cosine, static_argnums=1)(process, 3))
    draw = jax.jit(lambda x: js.sample(sampler, seen, x))
    candidates = jax.random.normal(jax.random.key(1), (6, 3))
    best, distances = jax.jit(lambda c: js.starts.best_start(draw, c, clean))(candidates)
    by_hand = [np.mean((draw(jnp.tile(c, (5, 1))) - clean) ** 2) for c in candidates]
    np.testing.assert_allclose(distances, by_hand, rtol=1e-9)
    np.testing.assert_array_equal(best, candidates[np.argmin(by_hand)])
    best, _ = js.starts.best_start(draw, candidates, clean, lambda a, b: -jnp.mean((a - b) ** 2))
    np.testing.assert_array_equal(best, candidates[np.argmax(by_hand)])


def test_a_boost_must_be_positive():
    with pytest.raises(ValueError, match="boost must be above 0"):
        js.starts.boost_and_skip(PROCESSES["edm"], KEY, (2, 2), 2.0, boost=0.0)
