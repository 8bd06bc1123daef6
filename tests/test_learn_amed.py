"""AMED: the base solvers at zero, numbers by hand, gradients, and what it learns."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsamplers as js
from tests.reference import problem

VP = js.processes.vp_linear()
EDM = js.processes.edm()
FLOW = js.processes.rectified_flow()
STEPS = 3
X = np.random.default_rng(0).normal(size=(8, 2))


def mixture(process):
    return js.analytic.gaussian_mixture(process, problem.MEANS, problem.COVARIANCES, weights=problem.WEIGHTS)


def shaken(parameters, size=0.5, seed=1):
    """Parameters away from zero."""
    leaves, tree = jax.tree.flatten(parameters.learned)
    rng = np.random.default_rng(seed)
    moved = [jnp.asarray(size * rng.normal(size=leaf.shape), leaf.dtype) for leaf in leaves]
    return dataclasses.replace(parameters, learned=jax.tree.unflatten(tree, moved))


sampled = jax.jit(lambda build, parameters, model, x: build.sample(parameters, model, x))


def halved(process, times):
    """The schedule with the points that AMED begins at put in."""
    middle = process.time((process.half_log_snr(times[:-1]) + process.half_log_snr(times[1:])) / 2)
    return jnp.append(jnp.stack([times[:-1], middle], axis=1).reshape(-1), times[-1])


@pytest.mark.parametrize("plugin", [None, 3])
def test_zero_is_the_base_solver(plugin, x64):
    times, x = js.schedules.half_log_snr(VP, STEPS), jnp.asarray(X)
    build, start = js.learn.amed(VP, STEPS, x, jax.random.key(0), schedule=times, plugin=plugin)
    if plugin is None:
        base = js.solvers.dpm_solver_singlestep(VP, times, order=2, lower_order_final=False)
    else:
        base = js.solvers.ipndm(VP, halved(VP, times), order=plugin)
    wanted = jax.jit(js.sample)(base, mixture(VP), x)
    np.testing.assert_allclose(sampled(build, start, mixture(VP), x), wanted, rtol=1e-10, atol=1e-10)
    assert js.network_calls(build(start)) == js.network_calls(base) == 2 * STEPS
    assert np.abs(sampled(build, shaken(start), mixture(VP), x) - wanted).max() > 1e-3


def test_zero_is_the_midpoint_method_from_pure_noise_to_the_clean_end(x64):
    times, x = js.schedules.uniform(FLOW, STEPS), jnp.asarray(X)
    build, start = js.learn.amed(FLOW, STEPS, x, jax.random.key(0), schedule=times)
    wanted = jax.jit(js.sample)(js.solvers.midpoint(FLOW, times), mixture(FLOW), x)
    np.testing.assert_allclose(sampled(build, start, mixture(FLOW), x), wanted, rtol=1e-10, atol=1e-10)
    moved = shaken(start, 0.1)
    slope = jax.jit(jax.grad(lambda p: jnp.sum(build.sample(p, mixture(FLOW), x) ** 2), allow_int=True))(moved)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope.learned))


@pytest.mark.parametrize("plugin", [None, 2])
def test_every_number_is_where_the_paper_has_it(plugin, x64):
    """Two steps in NumPy, each sample with its own ``r``, ``c`` and ``a``, on the process the paper is about."""
    times, x = np.asarray(js.schedules.karras(EDM, 2)), jnp.asarray(80 * X)
    build, start = js.learn.amed(EDM, 2, x, jax.random.key(0), schedule=jnp.asarray(times), plugin=plugin)
    parameters = shaken(start)
    sampler, model = build(parameters), mixture(EDM)
    ask, predict = jax.jit(lambda x, t: model(x, t)), jax.jit(lambda seen, row: sampler.predict(seen, row))
    slope = lambda x, t, shown: (x - np.asarray(ask(jnp.asarray(x), jnp.asarray(shown)))) / t[:, None]
    at, last = np.asarray(x), None
    for i in range(2):
        row = jax.tree.map(lambda leaf, i=i: leaf[2 * i], sampler.rows)
        t, end = np.full(len(X), times[i]), times[i + 1]
        d = slope(at, t, t)
        m = at - t[:, None] * d
        seen = js.learn.statistics(jnp.asarray(at / np.hypot(1, times[i])), jnp.asarray(m))
        inner, c, a = (np.asarray(value) for value in predict(seen, row))
        assert inner.std() > 1e-3 * inner.mean()
        assert np.abs(c - 1).max() <= 0.01
        assert 1e-3 < np.abs(a - 1).max() <= 0.2
        first = d if plugin is None or last is None else (3 * d - last) / 2
        mid = at + (inner - t)[:, None] * first
        d_mid = slope(mid, inner, np.minimum(a * inner, 80.0))
        if plugin is None:
            at = at + (c * (end - t))[:, None] * d_mid
        else:
            at, last = mid + (c * (end - inner))[:, None] * (3 * d_mid - d) / 2, d_mid
    np.testing.assert_allclose(sampled(build, parameters, model, x), at, rtol=1e-9, atol=1e-9)


def test_gradients_are_differences_and_local_ones_stay_in_their_step(x64):
    times, x = js.schedules.half_log_snr(VP, 2), jnp.asarray(X)
    build, start = js.learn.amed(VP, 2, x, jax.random.key(0), schedule=times, plugin=2, hidden=4)
    start, model = shaken(start, 0.3), mixture(VP)
    leaves, tree = jax.tree.flatten(start.learned)
    ways = [np.random.default_rng(i).normal(size=leaf.shape) for i, leaf in enumerate(leaves)]
    pairs = js.learn.pairs(x, jnp.zeros((len(X), 2, 2)))
    losses = js.learn.endpoint(build, model), js.learn.amed_loss(build, model)

    def along(loss, data):
        def value(s):
            moved = [leaf + s * way for leaf, way in zip(leaves, ways, strict=True)]
            return loss(dataclasses.replace(start, learned=jax.tree.unflatten(tree, moved)), data, None)

        return jax.jit(jax.value_and_grad(value))

    end = along(losses[0], js.learn.pairs(x, jnp.zeros_like(x)))
    difference = (end(1e-5)[0] - end(-1e-5)[0]) / 2e-5
    np.testing.assert_allclose(end(0.0)[1], difference, rtol=1e-6)
    each = along(losses[1], pairs)
    whole = (each(1e-5)[0] - each(-1e-5)[0]) / 2e-5
    value, local = each(0.0)
    assert abs(local - whole) > 1e-3 * abs(whole)  # the second step's samples move with the first's numbers
    assert value > 0


def test_a_bottleneck_is_what_the_model_returns_with_its_answer():
    x = VP.prior(jax.random.key(0), (4, 2))
    build, start = js.learn.amed(VP, 2, x, jax.random.key(1), feature=5, plugin=1)
    plain, start = mixture(VP), shaken(start)
    bottleneck = lambda x, t: js.learn.Answer(plain(x, t), jnp.stack([x[:, 0]] * 5, axis=1))
    assert jax.eval_shape(lambda x: build.sample(start, bottleneck, x), x).shape == x.shape
    with pytest.raises(ValueError, match=r"returns js\.learn\.Answer"):
        jax.eval_shape(lambda x: build.sample(start, plain, x), x)


def test_it_is_a_sampler_like_any(x64):
    x = {"a": jnp.asarray(X[:4]), "b": jnp.asarray(X[4:, 0])}
    build, start = js.learn.amed(VP, 2, x, jax.random.key(1))
    model = lambda x, t: jax.tree.map(lambda leaf: 0.5 * jnp.tanh(leaf), x)
    sampler = build(shaken(start))

    @jax.jit
    def thrice(x):
        state = js.run(sampler[3:], model, js.run(sampler[:3], model, x))
        one = jax.vmap(lambda one: js.sample(sampler, model, jax.tree.map(lambda leaf: leaf[None], one)))(x)
        return js.sample(sampler, model, x), state.x, jax.tree.map(lambda leaf: leaf[:, 0], one)

    for name in x:
        whole, halves, alone = (made[name] for made in thrice(x))
        np.testing.assert_allclose(halves, whole, rtol=1e-9)
        np.testing.assert_allclose(alone, whole, rtol=1e-9)
        np.testing.assert_array_equal(thrice(x)[0][name], whole)


@pytest.mark.parametrize("loss", ["each step", pytest.param("the end", marks=pytest.mark.slow)])
def test_it_learns(loss):
    """Six calls of iPNDM on the mixture."""
    model, x = mixture(VP), VP.prior(jax.random.key(0), (64, 2))
    times, fine = js.schedules.half_log_snr(VP, STEPS), js.schedules.half_log_snr(VP, 40)
    goal = js.learn.along(VP, fine, js.learn.paths(VP, model, x, fine), times[1:], "half_log_snr").swapaxes(0, 1)
    build, start = js.learn.amed(
        VP, STEPS, x, jax.random.key(1), schedule=times, plugin=2, feature=js.learn.entries, hidden=16
    )
    objective = js.learn.amed_loss(build, model) if loss == "each step" else js.learn.endpoint(build, model)
    pairs = js.learn.pairs(x, goal if loss == "each step" else goal[:, -1])
    found = js.learn.fit(
        objective, start, optimizer=optax.adam(0.05), batches=js.learn.batches(pairs, 64), steps=60, every=1,
        report=lambda *_, **__: None,
    )  # fmt: skip
    assert found.history[-1]["loss"] < 0.5 * found.history[0]["loss"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"plugin": 5}, "plugin must be from 1 to 4"),
        ({"scale_time": 2.0}, "scale_time must be at least 0"),
        ({"feature": 0}, "feature must be at least 1"),
        ({"coordinate": "edn"}, "unknown coordinate 'edn'"),
        ({"schedule": [0.9, 0.5, 0.0], "coordinate": "edm"}, "the schedule ends clean"),
    ],
)
def test_what_is_no_sampler_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        js.learn.amed(VP, 2, jnp.ones((1, 2)), jax.random.key(0), **arguments)
