"""PFGM++: the law of its noise in closed form, and EDM's solvers on it unchanged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsamplers as js
from tests.cases import like


def distance(uniforms):
    """Kolmogorov's: above ``2.8 / sqrt(n)`` with probability ``2 exp(-2 2.8^2) = 3e-7`` if they are uniform."""
    ordered, n = np.sort(np.asarray(uniforms, np.float64)), len(uniforms)
    return max(np.max(np.arange(1, n + 1) / n - ordered), np.max(ordered - np.arange(n) / n)) * np.sqrt(n)


@pytest.mark.parametrize(("dimensions", "freedom"), [(3, 4.0), (16, 128.0), (1, 1.0)])
@pytest.mark.parametrize("where", ["prior", "forward"])
def test_the_radius_has_the_inverse_beta_law(where, dimensions, freedom, x64):
    """``R^2 / (R^2 + r^2) ~ Beta(N / 2, D / 2)`` with ``r = sigma sqrt(D)``, uniform direction: 20,000 draws."""
    process, n, sigma = js.processes.pfgm_plus_plus(freedom), 20_000, 5.0
    x0 = jnp.full((n, dimensions), 2.0)
    if where == "prior":
        noise = process.prior(jax.random.key(0), x0, t=sigma)
    else:
        noise = process.forward(jax.random.key(0), x0, jnp.asarray(sigma)) - 2.0
    squares = jnp.sum(noise**2, axis=1)
    uniforms = jax.scipy.special.betainc(dimensions / 2, freedom / 2, squares / (squares + sigma**2 * freedom))
    assert distance(uniforms) < 2.8
    direction = noise / jnp.sqrt(squares)[:, None]
    assert float(jnp.abs(direction.mean(axis=0)).max()) < 5.5 / np.sqrt(n * dimensions)


def test_one_radius_for_a_whole_sample_and_one_key_for_each(x64):
    """Over the leaves of a pytree; draws depend on their own keys alone."""
    process, n = js.processes.pfgm_plus_plus(3.0), 20_000
    shape = {"a": like((n, 2)), "b": like((n,))}
    x = process.prior(jax.random.key(1), shape, t=1.0)
    squares = jnp.sum(x["a"] ** 2, axis=1) + x["b"] ** 2
    assert distance(jax.scipy.special.betainc(1.5, 1.5, squares / (squares + 3.0))) < 2.8
    keys = js.sample_keys(jax.random.key(2), jnp.arange(6))
    together = process.prior(keys, like((6, 2)), t=1.0)
    np.testing.assert_array_equal(process.prior(keys[2:4], like((2, 2)), t=1.0), together[2:4])


def test_many_dimensions_more_are_normal_noise(x64):
    process, normal = js.processes.pfgm_plus_plus(1e7), js.processes.edm()
    squares = jnp.linspace(0.0, 30.0, 7)
    density = lambda process: process.noise.log_density(squares, 5)
    np.testing.assert_allclose(density(process), density(normal), atol=1e-4)
    np.testing.assert_allclose(
        process.prior(jax.random.key(0), like((100, 5))), normal.prior(jax.random.key(0), like((100, 5))), rtol=5e-3
    )


def test_the_density_is_the_papers_and_normalised(x64):
    """``(|x|^2 + r^2)^{-(N + D) / 2}`` at ``sigma = 1``; the integral over the radius in three dimensions is 1."""
    noise, freedom = js.processes.pfgm_plus_plus(5.0).noise, 5.0
    radius = jnp.linspace(0.0, 2000.0, 2_000_001)
    density = jnp.exp(noise.log_density(radius**2, 3))
    np.testing.assert_allclose(density / density[0], (1 + radius**2 / freedom) ** (-(3 + freedom) / 2), rtol=1e-10)
    np.testing.assert_allclose(jnp.trapezoid(4 * jnp.pi * radius**2 * density, radius), 1.0, rtol=1e-6)


POINTS, WEIGHTS = np.array([-1.0, 0.5, 2.0]), np.array([0.2, 0.5, 0.3])


def cumulative(x, sigma, freedom):
    """Of data at three points on a line, under the kernel; Student's t."""
    t = (x[:, None] - POINTS) / sigma
    tail = 0.5 * jax.scipy.special.betainc(freedom / 2, 0.5, freedom / (freedom + t**2))
    return jnp.where(t > 0, 1 - tail, tail) @ WEIGHTS


@pytest.mark.parametrize("freedom", [2.0, 128.0])
def test_edms_solvers_carry_the_marginals(freedom, x64):
    """On a line a flow keeps every sample's quantile, if it is the flow of these very marginals."""
    process = js.processes.pfgm_plus_plus(freedom, sigma_min=0.05)
    data = np.repeat(POINTS, np.round(10 * WEIGHTS).astype(int))[:, None]
    model = js.analytic.empirical(process, data)
    x = process.prior(jax.random.key(0), like((32, 1)))
    before = cumulative(x[:, 0], 80.0, freedom)
    exact = js.adaptive.solve(process, model, x, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(cumulative(exact[:, 0], 0.05, freedom), before, atol=1e-7)
    sampler = js.solvers.heun(process, js.schedules.karras(process, 200))
    np.testing.assert_allclose(jax.jit(js.sample)(sampler, model, x), exact, atol=5e-3)
    normal = js.analytic.empirical(js.processes.edm(0.05), data)
    wrong = js.adaptive.solve(process, normal, x, rtol=1e-8, atol=1e-8)
    assert float(jnp.abs(cumulative(wrong[:, 0], 0.05, freedom) - before).max()) > 1e-3


def test_likelihood_starts_from_the_prior(x64):
    """Against the closed form; the data are points, which the prior at ``sigma_max`` does not see apart."""
    freedom = 4.0
    process = js.processes.pfgm_plus_plus(freedom, sigma_max=2000.0)
    data = np.repeat(POINTS, np.round(10 * WEIGHTS).astype(int))[:, None]
    x = jnp.array([[-1.2], [0.3], [5.0]])
    ours = js.adaptive.log_likelihood(process, js.analytic.empirical(process, data), x, t=0.3)
    each = process.noise.log_density(((x - POINTS) / 0.3) ** 2, 1) - np.log(0.3)
    np.testing.assert_allclose(ours, jax.nn.logsumexp(each, axis=1, b=WEIGHTS), atol=2e-3)


def test_what_has_no_closed_form_is_refused():
    process = js.processes.pfgm_plus_plus()
    with pytest.raises(ValueError, match="a Gaussian mixture has a closed form under normal noise only"):
        js.analytic.gaussian_mixture(process, np.zeros((1, 2)), 1.0)
    with pytest.raises(ValueError, match="smoothed data has a closed form under normal noise only"):
        js.analytic.empirical(process, np.zeros((3, 2)), 0.1)
    with pytest.raises(ValueError, match="freedom must be above 0, got 0"):
        js.processes.pfgm_plus_plus(0)
