import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsamplers as js
from tests.cases import PROCESSES, like, mixture

LINEAR = pytest.param("vp_linear", marks=pytest.mark.slow)
ALL = {**PROCESSES, "straight": js.processes.rectified_flow()}


def gaussian(process, mean, variance):
    return js.analytic.gaussian_mixture(process, jnp.full((1, 2), mean), jnp.full((1, 2), variance))


@pytest.mark.parametrize("origin", [None, 0.7])
@pytest.mark.parametrize("name", ALL)
def test_flow_of_a_gaussian_is_its_closed_form(name, origin, x64):
    """The flow keeps ``(x - mean_t) / deviation_t``; both ends included where the process has them."""
    process = ALL[name] if origin is None else js.processes.shifted(ALL[name], origin)
    mean, variance = 0.4, 0.3
    model = gaussian(process, mean, variance)
    x = process.prior(jax.random.key(0), like((4, 2)))

    def standard(x, t):
        alpha, sigma = process.alpha(t), process.sigma(t)
        centre = alpha * mean + (1 - alpha) * (origin or 0.0)
        return (x - centre) / jnp.sqrt(alpha**2 * variance + sigma**2)

    solve = jax.jit(lambda x, end: js.adaptive.solve(process, model, x, t_end=end, rtol=1e-10, atol=1e-10))
    for end in (process.t_min, 0.0):
        out = solve(x, end)
        np.testing.assert_allclose(standard(out, end), standard(x, process.t_max), rtol=1e-7, atol=1e-8)


def test_encoding_and_decoding_are_inverse(x64):
    process = js.processes.rectified_flow()
    model = mixture(process)
    x = model.draw(jax.random.key(0), 4)
    noise = js.adaptive.solve(process, model, x, t_start=1e-3, t_end=1.0, rtol=1e-10, atol=1e-10)
    back = js.adaptive.solve(process, model, noise, t_start=1.0, t_end=1e-3, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(back, x, rtol=1e-6)
    assert float(jnp.max(jnp.abs(noise - x))) > 0.1


@pytest.mark.parametrize("name", [LINEAR, "edm"])
def test_likelihood_of_a_mixture(name, x64):
    """Exact when the prior is the true marginal at ``t_max``; at any time; Hutchinson's mean agrees."""
    process = PROCESSES[name]
    model = mixture(process)
    x = model.draw(jax.random.key(0), 6)
    prior = lambda x: model.log_prob(x, jnp.asarray(process.t_max))
    for t in (process.t_min, 0.5):
        exact = model.log_prob(x, jnp.asarray(t))
        out = js.adaptive.log_likelihood(process, model, x, t=t, log_prior=prior, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(out, exact, rtol=1e-6, atol=1e-6)
    noisy = js.adaptive.log_likelihood_hutchinson(
        process, model, x, jax.random.key(1), probes=200, t=0.5, log_prior=prior, rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(noisy, exact, atol=0.4)
    assert float(jnp.max(jnp.abs(noisy - exact))) > 1e-9


def test_likelihood_with_the_standard_prior_of_a_shifted_pytree(x64):
    """A Gaussian of exactly the prior's shape keeps it, so the default prior gives the exact density."""
    process = js.processes.shifted(js.processes.vp_linear(), 1.0)
    model = lambda x, t: jax.tree.map(lambda y: 1 + process.alpha(t) * (y - 1), x)  # data N(1, I)
    x = {"a": jnp.array([[0.3, 1.2], [2.0, -1.0]]), "b": jnp.array([0.5, 0.1])}
    exact = -0.5 * (jnp.sum((x["a"] - 1) ** 2, 1) + (x["b"] - 1) ** 2) - 1.5 * jnp.log(2 * jnp.pi)
    np.testing.assert_allclose(js.adaptive.log_likelihood(process, model, x), exact, rtol=2e-4)
    hutchinson = js.adaptive.log_likelihood_hutchinson(process, model, x, jax.random.key(0))
    np.testing.assert_allclose(hutchinson, exact, rtol=2e-4)  # the divergence is isotropic: no probe noise


@pytest.mark.parametrize("name", [LINEAR, "edm"])
def test_adaptive_sde_has_the_moments_of_the_data(name):
    """4,000 independent coordinates of one Gaussian: mean and variance within 5 standard errors plus 2 % for steps."""
    process = PROCESSES[name]
    mean, variance, n = 0.4, 0.3, 4_000
    model = gaussian(process, mean, variance)
    x = process.prior(jax.random.key(0), (n // 2, 2))
    out = np.asarray(js.adaptive.solve_sde(process, model, x, jax.random.key(1), rtol=1e-2, atol=1e-2))
    assert abs(out.mean() - mean) < 5 * np.sqrt(variance / n) + 0.01
    assert abs(out.var() / variance - 1) < 5 * np.sqrt(2 / n) + 0.02
    ode = np.asarray(js.adaptive.solve(process, model, x, rtol=1e-4, atol=1e-4))
    assert abs(np.corrcoef(out[:, 0], ode[:, 0])[0, 1]) < 0.9  # it does not just follow the flow


def test_gradients_pass_through_an_adaptive_solution(x64):
    process = js.processes.edm()
    x = jnp.array([[3.0, -2.0]])
    loss = lambda mean: jnp.sum(
        js.adaptive.solve(process, gaussian(process, mean, 0.3), x, t_start=5.0, rtol=1e-9, atol=1e-9) ** 2
    )
    finite = (loss(0.4 + 1e-5) - loss(0.4 - 1e-5)) / 2e-5
    np.testing.assert_allclose(jax.grad(loss)(0.4), finite, rtol=1e-5)


def test_infinite_ends_are_refused_by_the_sde():
    process = js.processes.rectified_flow()
    with pytest.raises(ValueError, match="needs signal and noise at both ends, got t_start=1, t_end=0"):
        js.adaptive.solve_sde(process, lambda x, t: x, jnp.ones((2, 2)), jax.random.key(0))


def test_too_few_steps_raise():
    process = js.processes.vp_linear()
    with pytest.raises(RuntimeError, match="maximum number of solver steps"):
        js.adaptive.solve(process, mixture(process), jnp.ones((2, 2)), max_steps=3)


def test_probes_must_be_positive():
    with pytest.raises(ValueError, match="probes must be at least 1, got 0"):
        js.adaptive.log_likelihood_hutchinson(ALL["edm"], lambda x, t: x, jnp.ones((2, 2)), jax.random.key(0), probes=0)
