import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.linalg import inv, slogdet

import jaxsamplers as js
from tests.cases import PROCESSES, mixture

VP = js.processes.vp_linear()


def by_hand(process, means, covariances, weights, x, t):
    """The posterior mean and log density written out with matrix inverses, one sample at a time."""
    alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
    origin = 0.0 if process.origin is None else np.asarray(process.origin)
    logs, posteriors = [], []
    for mean, covariance, weight in zip(means, covariances, weights, strict=True):
        total = alpha**2 * covariance + sigma**2 * np.eye(len(mean))
        deviation = x - (alpha * mean + (1 - alpha) * origin)
        quadratic = deviation @ inv(total) @ deviation
        logs.append(np.log(weight) - 0.5 * (quadratic + slogdet(total)[1] + len(mean) * np.log(2 * np.pi)))
        posteriors.append(mean + alpha * covariance @ inv(total) @ deviation)
    top = np.max(logs)
    probability = np.exp(np.array(logs) - top)
    return probability @ np.array(posteriors) / probability.sum(), top + np.log(probability.sum())


@pytest.mark.parametrize("kind", ["full", "diagonal", "scalar"])
@pytest.mark.parametrize("process", [*PROCESSES, "shifted"])
def test_mixture_matches_matrix_inverses(process, kind, x64):
    process = js.processes.shifted(VP, np.array([0.5, -1.0, 2.0])) if process == "shifted" else PROCESSES[process]
    rng = np.random.default_rng(0)
    means, weights = rng.normal(size=(4, 3)), rng.dirichlet(np.ones(4))
    roots = rng.normal(size=(4, 3, 3))
    given = {"full": roots @ roots.transpose(0, 2, 1), "diagonal": rng.uniform(0.1, 1, size=(4, 3)), "scalar": 0.3}[
        kind
    ]
    full = {
        "full": lambda: given,
        "diagonal": lambda: np.stack([np.diag(d) for d in given]),
        "scalar": lambda: np.stack([0.3 * np.eye(3)] * 4),
    }[kind]()
    model = js.analytic.gaussian_mixture(process, means, given, weights)
    t = np.linspace(process.t_min, process.t_max, 5)
    x = rng.normal(size=(5, 3)) * np.asarray(process.sigma(t))[:, None]
    expected = [by_hand(process, means, full, weights, row, time) for row, time in zip(x, t, strict=True)]
    np.testing.assert_allclose(model(jnp.asarray(x), jnp.asarray(t)), [m for m, _ in expected], rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(model.log_prob(jnp.asarray(x), jnp.asarray(t)), [p for _, p in expected], rtol=1e-8)
    single = model(jnp.asarray(x[2]), jnp.asarray(t[2]))
    np.testing.assert_allclose(single, expected[2][0], rtol=1e-8, atol=1e-9)
    score = jax.grad(model.log_prob)(jnp.asarray(x[2]), jnp.asarray(t[2]))
    np.testing.assert_allclose(model.score(jnp.asarray(x[2]), jnp.asarray(t[2])), score, rtol=1e-8, atol=1e-9)


def test_mixture_draws_have_its_moments():
    """200,000 draws: every mean and covariance entry within 5 standard errors (false alarm below 1e-5)."""
    model = mixture(VP)
    x = np.asarray(model.draw(jax.random.key(0), 200_000), np.float64)
    weights, means = np.exp(model.log_weights), np.asarray(model.means)
    axes, variances = np.asarray(model.axes), np.asarray(model.variances)
    within = np.einsum("k,kij,kj,klj->il", weights, axes, variances, axes)
    mean = weights @ means
    covariance = within + np.einsum("k,ki,kj->ij", weights, means - mean, means - mean)
    bound = 5 * np.sqrt(np.diag(covariance) / len(x))
    assert (np.abs(x.mean(0) - mean) < bound).all()
    assert (np.abs(np.cov(x.T) - covariance) < 5 * np.sqrt(3 / len(x)) * np.max(np.diag(covariance))).all()


@pytest.mark.parametrize("process", [*PROCESSES, "shifted"])
@pytest.mark.parametrize("chunk", [7, 16, 1000])
def test_empirical_equals_a_mixture_with_one_component_per_point(process, chunk, x64):
    origin = np.array([[0.5, -1.0], [2.0, 0.1]])
    process = js.processes.shifted(VP, origin) if process == "shifted" else PROCESSES[process]
    flat = js.processes.shifted(VP, origin.reshape(-1)) if process.origin is not None else process
    rng = np.random.default_rng(0)
    data = rng.normal(size=(33, 2, 2))
    model = js.analytic.empirical(process, data, 0.2, chunk=chunk)
    exact = js.analytic.gaussian_mixture(flat, data.reshape(33, 4), 0.04)
    x = jnp.asarray(rng.normal(size=(6, 2, 2)))
    for t in (process.t_min, process.t_max, jnp.linspace(process.t_min, process.t_max, 6)):
        expected = exact(x.reshape(6, 4), jnp.asarray(t)).reshape(6, 2, 2)
        np.testing.assert_allclose(model(x, jnp.asarray(t)), expected, rtol=1e-8, atol=1e-10)


def test_empirical_without_bandwidth_returns_the_data():
    data = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    model = js.analytic.empirical(js.processes.edm(), data)
    np.testing.assert_allclose(model(jnp.asarray(data[:5]), 1e-3), data[:5], atol=1e-6)
    spread = js.analytic.empirical(js.processes.edm(), data, 0.5).draw(jax.random.key(0), 20_000)
    np.testing.assert_allclose(np.var(spread, axis=0), data.var(0) + 0.25, rtol=0.05)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: js.analytic.gaussian_mixture(VP, np.ones(3), 1.0), r"means must have shape .* got \(3,\)"),
        (lambda: js.analytic.gaussian_mixture(VP, np.ones((2, 3)), np.ones(3)), r"\(2, 3, 3\), \(2, 3\) or \(\)"),
        (lambda: js.analytic.gaussian_mixture(VP, np.ones((2, 3)), 1.0, np.ones(3)), r"weights must have shape \(2,\)"),
        (lambda: js.analytic.gaussian_mixture(VP, np.ones((2, 3)), 1.0, np.array([1, -1])), "weights must be above 0"),
        (lambda: js.analytic.gaussian_mixture(VP, np.ones((2, 3)), -1.0), "eigenvalues must be at least -1e-06"),
        (lambda: js.analytic.empirical(VP, np.ones(3)), r"data must have shape \[points, ...\], got \(3,\)"),
        (lambda: js.analytic.empirical(VP, np.ones((3, 2)), -0.1), "bandwidth must be at least 0, got -0.1"),
        (lambda: js.analytic.empirical(VP, np.ones((3, 2)), chunk=0), "chunk must be at least 1, got 0"),
    ],
)
def test_bad_problems_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_float32_samples_in_a_float64_program(x64):
    process = js.processes.vp_linear()
    points = np.random.default_rng(0).normal(size=(5, 2))
    model = js.analytic.empirical(process, points, 0.1)
    assert model(jnp.ones((3, 2), jnp.float32), 0.5).dtype == jnp.float32
