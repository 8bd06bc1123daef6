import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsamplers as js
from tests.cases import PROCESSES

BETAS = np.linspace(1e-4, 0.02, 1000)
MADE = {  # where needed, in the precision of the test
    "from_betas": lambda: js.processes.from_betas(BETAS),
    "straight": js.processes.rectified_flow,
    "trigonometric": js.processes.trigonometric,
    "trigonometric-2": lambda: js.processes.trigonometric(2.0, t_min=1e-3, t_max=0.999),
    "mean_reverting": lambda: js.processes.mean_reverting(0.5),
    "residual_shifting": lambda: js.processes.residual_shifting(0.5),
    **{name: lambda process=process: process for name, process in PROCESSES.items()},
}
ALL = {name: make() for name, make in MADE.items()}


def times_of(process, dtype):
    """A dense grid that is finer at both ends of the range."""
    inside = np.geomspace(max(process.t_min, 1e-4), process.t_max, 400)
    return jnp.asarray(np.unique(np.concatenate([inside, process.t_max - inside[inside < process.t_max / 2]])), dtype)


@pytest.mark.parametrize("name", ALL)
def test_time_inverts_half_log_snr_in_float32(name):
    process = ALL[name]
    t = times_of(process, jnp.float32)
    np.testing.assert_allclose(process.time(process.half_log_snr(t)), t, rtol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_time_inverts_half_log_snr_in_float64(name, x64):
    process = MADE[name]()
    t = times_of(process, jnp.float64)
    np.testing.assert_allclose(process.time(process.half_log_snr(t)), t, rtol=1e-10)


@pytest.mark.parametrize("name", ALL)
def test_float32_is_as_accurate_as_float32_can_be(name):
    """Against float64, to a few units in the last place, at both ends of the range."""
    t32 = times_of(ALL[name], jnp.float32)
    with jax.enable_x64(True):
        process = MADE[name]()
        t64 = jnp.asarray(np.asarray(t32), jnp.float64)
        exact = [np.asarray(f(t64)) for f in (process.alpha, process.sigma, process.half_log_snr)]
    process = ALL[name]
    np.testing.assert_allclose(process.alpha(t32), exact[0], rtol=2e-6, atol=3e-7)
    np.testing.assert_allclose(process.sigma(t32), exact[1], rtol=2e-6)
    np.testing.assert_allclose(process.half_log_snr(t32), exact[2], rtol=2e-6, atol=1e-5)


@pytest.mark.parametrize("name", ["vp_linear", "vp_cosine", "from_betas", "trigonometric"])
def test_variance_preserving(name):
    process = ALL[name]
    t = times_of(process, jnp.float32)
    np.testing.assert_allclose(process.alpha(t) ** 2 + process.sigma(t) ** 2, 1.0, atol=1e-6)


def test_vp_linear_solves_its_differential_equation(x64):
    """alpha' = -beta alpha / 2, and sigma^2 grows by beta (1 - sigma^2)."""
    process = js.processes.vp_linear(beta_min=0.3, beta_max=7.0)
    t = jnp.linspace(0.01, 1.0, 50)
    beta = 0.3 + t * 6.7
    alpha_dot, sigma_dot = process.velocity_coefficients(t)
    np.testing.assert_allclose(alpha_dot, -beta * process.alpha(t) / 2, rtol=1e-12)
    np.testing.assert_allclose(2 * process.sigma(t) * sigma_dot, beta * (1 - process.sigma(t) ** 2), rtol=1e-12)


def test_vp_cosine_is_the_published_formula(x64):
    process = js.processes.vp_cosine()
    t = jnp.linspace(0.0, 0.99, 100)
    f = lambda t: jnp.cos(jnp.pi / 2 * (t + 0.008) / 1.008)
    np.testing.assert_allclose(process.alpha(t), f(t) / f(0.0), rtol=1e-12)


def test_from_betas_passes_through_the_table(x64):
    process = js.processes.from_betas(BETAS)
    index = np.arange(1000)
    np.testing.assert_allclose(process.alpha((index + 1) / 1000) ** 2, np.cumprod(1 - BETAS), rtol=1e-10)
    middle = np.log(process.alpha(500.5 / 1000))
    np.testing.assert_allclose(middle, np.mean(np.log(process.alpha(np.array([500, 501]) / 1000))), rtol=1e-10)


@pytest.mark.parametrize("name", ALL)
def test_clean_end_is_exact_and_its_gradients_are_finite(name):
    process = ALL[name]
    assert process.alpha(0.0) == 1
    assert process.sigma(0.0) == 0
    assert process.half_log_snr(0.0) == jnp.inf
    assert process.time(jnp.inf) == 0
    for f in (process.alpha, process.sigma, process.half_log_snr):
        assert jnp.isfinite(jax.grad(f)(0.0))


@pytest.mark.parametrize("process", [js.processes.rectified_flow(), js.processes.trigonometric()])
def test_pure_noise_end(process):
    assert process.alpha(1.0) == 0
    assert process.half_log_snr(1.0) == -jnp.inf
    assert process.time(-jnp.inf) == 1
    assert jnp.isfinite(jax.grad(process.half_log_snr)(1.0))


@pytest.mark.parametrize("origin", [None, 1.5])
def test_forward_has_the_stated_moments(origin):
    """100,000 draws: mean and variance within 5 standard errors (false alarm below 1e-5)."""
    process = js.processes.vp_linear()
    if origin is not None:
        process = js.processes.shifted(process, origin)
    t, n = 0.3, 100_000
    x = process.forward(jax.random.key(0), jnp.full((n, 1), 2.0), jnp.asarray(t))
    alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
    mean = alpha * 2.0 + (1 - alpha) * (origin or 0.0)
    assert abs(float(x.mean()) - mean) < 5 * sigma / np.sqrt(n)
    assert abs(float(x.var()) / sigma**2 - 1) < 5 * np.sqrt(2 / n)


def test_forward_takes_one_time_per_sample():
    process = js.processes.edm()
    t = jnp.array([0.0, 1.0, 10.0])
    x0 = jnp.ones((3, 4, 2))
    x = process.forward(jax.random.key(0), x0, t)
    assert (x[0] == x0[0]).all()
    same = process.forward(jax.random.key(0), x0, jnp.asarray(10.0))
    np.testing.assert_allclose(x[2], same[2], rtol=1e-6)


def test_prior_matches_a_shape_a_pytree_and_a_time():
    process = js.processes.shifted(js.processes.edm(), {"image": 3.0, "label": -1.0})
    like = {"image": jax.ShapeDtypeStruct((2000, 3), jnp.float32), "label": jax.ShapeDtypeStruct((2000,), jnp.float32)}
    x = process.prior(jax.random.key(0), like, t=0.5)
    assert jax.tree.map(jnp.shape, x) == {"image": (2000, 3), "label": (2000,)}
    assert abs(float(x["image"].mean()) - 3.0) < 0.05
    assert abs(float(x["label"].std()) - 0.5) < 0.05
    assert js.processes.edm().prior(jax.random.key(0), (5, 2)).shape == (5, 2)


def test_shifting_twice_adds_up():
    process = js.processes.shifted(js.processes.shifted(js.processes.edm(), 1.0), 2.0)
    assert float(process.origin) == 3.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: js.processes.from_betas(np.array([0.1, 1.5])),
            r"betas must lie in \(0, 1\), got values from 0.1 to 1.5",
        ),
        (
            lambda: js.processes.from_betas(np.ones((2, 2))),
            r"betas must be a one-dimensional table, got shape \(2, 2\)",
        ),
        (lambda: js.processes.edm(sigma_min=2.0, sigma_max=1.0), "t_max above t_min, got t_min=2.0 and t_max=1.0"),
        (lambda: js.processes.vp_linear(beta_min=-1.0), "beta_min must be above 0, got -1.0"),
        (lambda: js.processes.vp_linear(t_min=float("nan")), "t_min must be at least 0, got nan"),
        (lambda: js.processes.rectified_flow(t_max=2.0), "t_max must be at least 0 and at most 1, got 2.0"),
    ],
)
def test_bad_processes_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
