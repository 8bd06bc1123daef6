import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import jaxsamplers as js
from jaxsamplers.denoisers import predictions
from tests.cases import PROCESSES, mixture

PROCESS = js.processes.vp_linear()
TIMES = js.schedules.half_log_snr(PROCESS, 4)
NOISE = PROCESS.prior(jax.random.key(1), (6, 3))


@pytest.mark.parametrize("prediction", predictions)
@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("origin", [None, 0.8])
def test_predictions_are_what_they_say(process, prediction, origin, x64):
    """From x0 and eps known by construction, a network's exact answer gives x0 back, and the other way round."""
    process = PROCESSES[process]
    if origin is not None:
        process = js.processes.shifted(process, origin)
    shift = origin or 0.0
    rng = np.random.default_rng(0)
    x0, eps = rng.normal(size=(2, 5, 3))
    t = jnp.linspace(process.t_min, process.t_max, 7)[1:6]  # one time per sample
    alpha, sigma = process.alpha(t)[:, None], process.sigma(t)[:, None]
    h = 1e-6 * t
    slope = lambda f: ((f(t + h) - f(t - h)) / (2 * h))[:, None]
    x = alpha * (x0 - shift) + sigma * eps + shift
    answer = {
        "epsilon": eps,
        "x0": x0,
        "v": alpha * eps - sigma * (x0 - shift),
        "score": -eps / sigma,
        "velocity": slope(process.alpha) * (x0 - shift) + slope(process.sigma) * eps,
    }[prediction]
    model = js.denoiser(lambda x, t: answer, process, prediction)
    np.testing.assert_allclose(model(x, t), x0, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(js.predict(lambda x, t: x0, process, prediction)(x, t), answer, rtol=1e-6, atol=1e-6)


def test_the_score_is_the_gradient_of_the_log_density(x64):
    model = mixture(PROCESS)
    x, t = jnp.array([[0.3, -0.5], [1.0, 2.0]]), jnp.asarray(0.4)
    gradient = jax.vmap(jax.grad(lambda x: model.log_prob(x, t)))(x)
    np.testing.assert_allclose(js.predict(model, PROCESS, "score")(x, t), gradient, rtol=1e-10)


def test_the_network_is_shown_its_own_clock_in_full_precision():
    shown = []

    def network(x, t):
        shown.append(t)
        return x.astype(jnp.bfloat16)

    process = js.processes.from_betas(np.linspace(1e-4, 0.02, 1000))
    model = js.denoiser(network, process, "v", time=lambda t: 1000 * t - 1)
    model(jnp.zeros((2, 3)), jnp.float32(0.989))
    np.testing.assert_allclose(shown[0], 988.0, rtol=1e-6)
    assert shown[0].dtype == jnp.float32


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x, t, train=False, scale=1.0):
        h = linen.tanh(linen.Dense(8)(jnp.concatenate([x, jnp.broadcast_to(t, (*x.shape[:-1], 1))], -1)))
        h = linen.Dropout(0.5, deterministic=not train)(h)
        return scale * linen.Dense(x.shape[-1])(h)


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(4, 8, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.second = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x, t, scale=1.0):
        h = nnx.tanh(self.first(jnp.concatenate([x, jnp.broadcast_to(t, (*x.shape[:-1], 1))], -1)))
        return scale * self.second(self.dropout(h))


@pytest.fixture(scope="module")
def networks():
    """The same weights in linen, in NNX and in a plain function."""
    module = NnxNet(nnx.Rngs(0))
    kernel = lambda layer: {"kernel": layer.kernel[...], "bias": layer.bias[...]}
    params = {"Dense_0": kernel(module.first), "Dense_1": kernel(module.second)}
    variables = {"params": params}

    def plain(x, t, scale=1.0):
        h = jnp.tanh(jnp.append(x, jnp.full((*x.shape[:-1], 1), t), -1) @ params["Dense_0"]["kernel"])
        return scale * (h @ params["Dense_1"]["kernel"])  # biases start at zero

    return js.from_linen(LinenNet(), variables, train=False), js.from_nnx(module), plain


def test_linen_equals_nnx_equals_a_plain_function(networks):
    sampler = js.solvers.dpm_solver_pp(PROCESS, TIMES)
    outputs = [js.sample(sampler, js.denoiser(apply, PROCESS), NOISE) for apply in networks]
    np.testing.assert_allclose(outputs[0], outputs[2], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(outputs[1], outputs[2], rtol=1e-5, atol=1e-5)
    assert float(jnp.std(outputs[2])) > 0.1


def test_a_denoiser_is_a_jit_argument_and_new_weights_compile_nothing(networks):
    traces = []

    @jax.jit
    def draw(model, noise):
        traces.append(1)
        return js.sample(js.solvers.ddim(PROCESS, TIMES), model, noise)

    for apply in networks[:2]:
        traces.clear()
        first = draw(js.denoiser(apply, PROCESS), NOISE)
        other = jax.tree.map(lambda w: 2 * w if jnp.issubdtype(w.dtype, jnp.floating) else w, apply)
        second = draw(js.denoiser(other, PROCESS), NOISE)
        assert len(traces) == 1
        assert not np.allclose(first, second)


def test_nnx_is_read_in_evaluation_mode_and_left_as_it_was():
    module = NnxNet(nnx.Rngs(0))
    apply = js.from_nnx(module)
    x = jnp.ones((4, 3))
    np.testing.assert_array_equal(apply(x, 0.5), apply(x, 0.5))
    assert not module.dropout.deterministic


def test_extra_arguments_reach_the_network(networks):
    for apply in networks:
        model = js.denoiser(apply, PROCESS, "x0")
        np.testing.assert_allclose(model(NOISE, 0.5, scale=3.0), 3 * model(NOISE, 0.5), rtol=1e-6)


@pytest.mark.parametrize("make", [js.denoiser, js.predict])
def test_unknown_predictions_answer_with_the_nearest(make):
    with pytest.raises(ValueError, match="unknown prediction 'epsilom': did you mean epsilon"):
        make(lambda x, t: x, PROCESS, "epsilom")


def test_times_of_the_wrong_shape_are_refused():
    with pytest.raises(ValueError, match=r"times of shape \(2, 3, 1\) do not match a sample of shape \(6, 3\)"):
        js.denoiser(lambda x, t: x, PROCESS)(NOISE, jnp.ones((2, 3, 1)))
