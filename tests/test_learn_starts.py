"""Learned starts: exact flows in closed form, gradients in the start time, and what learning it is worth."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsamplers as js
from tests.reference import problem

VP = js.processes.vp_linear()
AWAY = js.processes.shifted(js.processes.edm(), jnp.array([0.5, -1.0, 2.0]))
MEAN = np.array([0.5, -1.0, 0.3])
ROOT = np.array([[1.0, 0.0, 0.0], [0.5, 0.4, 0.0], [-0.3, 0.2, 0.1]])
COVARIANCE = ROOT @ ROOT.T
NOISE = np.random.default_rng(0).normal(size=(5, 3))


def mixture(process):
    return js.analytic.gaussian_mixture(process, problem.MEANS, problem.COVARIANCES, weights=problem.WEIGHTS)


@jax.jit
def begun(start, process, x, t):
    return start(process, jnp.asarray(x), t)


def by_hand(process, x, t):
    """The flow of ``N(MEAN, COVARIANCE)`` as the optimal map between the marginals at the two times."""
    origin = 0.0 if process.origin is None else np.asarray(process.origin)
    root = lambda matrix: (lambda v, u: u * np.sqrt(v) @ u.T)(*np.linalg.eigh(matrix))
    levels = [(float(process.alpha(s)), float(process.sigma(s))) for s in (process.t_max, t)]
    centres = [origin + alpha * (MEAN - origin) for alpha, _ in levels]
    spreads = [alpha**2 * COVARIANCE + sigma**2 * np.eye(3) for alpha, sigma in levels]
    inverse = np.linalg.inv(root(spreads[0]))
    transport = inverse @ root(root(spreads[0]) @ spreads[1] @ root(spreads[0])) @ inverse
    return centres[1] + (x - centres[0]) @ transport.T


@pytest.mark.parametrize("process", [VP, AWAY], ids=["vp", "shifted edm"])
def test_teleport_is_the_flow_of_its_gaussian(process, x64):
    x = float(process.sigma(process.t_max)) * NOISE + (0.0 if process.origin is None else np.asarray(process.origin))
    t = 0.3 * process.t_max
    start = js.learn.teleport(MEAN, COVARIANCE)
    np.testing.assert_allclose(begun(start, process, x, t), by_hand(process, x, t), rtol=1e-10)
    variances, axes = np.linalg.eigh(COVARIANCE)
    same = js.learn.teleport(MEAN, variances, axes=axes)
    np.testing.assert_allclose(begun(same, process, x, t), by_hand(process, x, t), rtol=1e-10)


def test_teleport_is_what_an_adaptive_solver_finds(x64):
    model, x = js.analytic.gaussian_mixture(VP, MEAN[None], COVARIANCE[None]), jnp.asarray(NOISE)
    exact = jax.jit(lambda x: js.adaptive.solve(VP, model, x, t_end=0.4, rtol=1e-11, atol=1e-11))(x)
    np.testing.assert_allclose(begun(js.learn.teleport(MEAN, COVARIANCE), VP, x, 0.4), exact, rtol=1e-8, atol=1e-9)


def test_variances_of_pixels_and_few_directions(x64):
    x, mean, variances = jnp.asarray(NOISE), jnp.asarray(MEAN), jnp.array([0.5, 0.0, 2.0])
    whole = begun(js.learn.teleport(mean, jnp.diag(variances)), VP, x, 0.3)
    np.testing.assert_allclose(begun(js.learn.teleport(mean, variances), VP, x, 0.3), whole, rtol=1e-12)
    few = js.learn.teleport(mean, variances[jnp.array([0, 2])], axes=jnp.eye(3)[:, jnp.array([0, 2])])
    np.testing.assert_allclose(begun(few, VP, x, 0.3), whole, rtol=1e-12)


def test_a_teleport_from_data_has_their_moments(x64):
    data = np.random.default_rng(1).normal(size=(40, 3)) @ ROOT.T + MEAN
    start, few = js.learn.teleport_to(data), js.learn.teleport_to(data, rank=2)
    np.testing.assert_allclose(start.mean, data.mean(axis=0))
    np.testing.assert_allclose(start.axes * start.variances @ start.axes.T, np.cov(data.T, bias=True), atol=1e-12)
    values, vectors = np.linalg.eigh(np.cov(data.T, bias=True))
    np.testing.assert_allclose(few.variances, values[:0:-1], rtol=1e-10)
    np.testing.assert_allclose(np.abs(few.axes.T @ vectors[:, :0:-1]), np.eye(2), atol=1e-8)


def test_a_truncated_start_is_noise_of_the_size_of_its_time():
    x = {"a": VP.prior(jax.random.key(0), (4, 3)), "b": jnp.ones((4,))}
    start = jax.jit(js.learn.truncated)
    for same, leaf in zip(jax.tree.leaves(start(VP, x, VP.t_max)), jax.tree.leaves(x), strict=True):
        np.testing.assert_array_equal(same, leaf)
    np.testing.assert_allclose(start(VP, x, 0.2)["a"], x["a"] * VP.sigma(0.2) / VP.sigma(1.0), rtol=1e-6)
    y = AWAY.origin + jnp.asarray(NOISE, jnp.float32)
    np.testing.assert_allclose(start(AWAY, y, 40.0) - AWAY.origin, (y - AWAY.origin) / 2, rtol=1e-5)


@pytest.mark.parametrize("kind", ["truncated", "teleport"])
def test_gradients_reach_the_start_time(kind, x64):
    start = js.learn.truncated if kind == "truncated" else js.learn.teleport(MEAN[:2], COVARIANCE[:2, :2])
    build, x = js.learn.builder(js.solvers.ddim, VP, start=start), jnp.asarray(problem.STARTS)
    times = js.schedules.half_log_snr(VP, 3, t_start=0.7)
    parameters = js.learn.parameters(VP, 3, schedule=times, times=False, ends=True)
    weights = jnp.asarray(np.random.default_rng(4).normal(size=x.shape))

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def value(ends):
        moved = dataclasses.replace(parameters, learned={"ends": ends})
        return jnp.sum(weights * build.sample(moved, mixture(VP), x)), moved.times(VP)[0]

    at, step = jnp.array([0.3, -0.2]), 1e-5
    (_, first), slope = value(at)
    for i in range(2):
        apart = [value(at.at[i].add(sign * step))[0][0] for sign in (1, -1)]
        np.testing.assert_allclose(slope[i], (apart[0] - apart[1]) / (2 * step), rtol=1e-6)
    assert abs(float(slope[0])) > 1e-2
    assert float(value(jnp.zeros(2))[0][1]) == float(times[0])
    assert abs(float(first - times[0])) > 0.01


def test_a_learned_start_is_better_than_a_fixed_one():
    """DDIM in five calls that begin at 0.7 of the time with the exact flow of a Gaussian."""
    model, x = mixture(VP), VP.prior(jax.random.key(0), (64, 2))
    goal = jax.jit(lambda x: js.adaptive.solve(VP, model, x, rtol=1e-4, atol=1e-4))(x)
    start = js.learn.teleport_to(model.draw(jax.random.key(1), 512))
    build = js.learn.builder(js.solvers.ddim, VP, start=start)
    times = js.schedules.half_log_snr(VP, 5, t_start=0.7)
    found = js.learn.fit(
        js.learn.endpoint(build, model, distance=js.learn.rms),
        js.learn.parameters(VP, 5, schedule=times, times=False, ends=True),
        optimizer=optax.adam(0.1), batches=js.learn.batches(js.learn.pairs(x, goal), 64), steps=40, every=1,
        report=lambda *_, **__: None,
    )  # fmt: skip
    assert found.value < 0.6 * found.history[0]["loss"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mean": MEAN, "covariance": np.ones((2, 2))}, "a matrix of shape"),
        ({"mean": MEAN, "covariance": -1.0}, "covariance must be at least 0"),
        ({"mean": MEAN, "covariance": np.diag([1.0, -1.0, 1.0])}, "eigenvalues must be at least 0"),
        ({"mean": MEAN, "covariance": np.ones(2), "axes": np.ones((3, 1))}, "one direction a column"),
    ],
)
def test_what_is_no_gaussian_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        js.learn.teleport(**arguments)


def test_data_that_have_no_gaussian_are_refused():
    with pytest.raises(ValueError, match="at least two samples"):
        js.learn.teleport_to(np.ones((1, 3)))
    with pytest.raises(ValueError, match="rank must be from 1 to 2"):
        js.learn.teleport_to(np.ones((2, 3)), rank=3)
