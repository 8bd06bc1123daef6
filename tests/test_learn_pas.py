"""PAS: the base solver at zero, its basis as NumPy makes it, its coordinates as the optima of their problems."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsamplers as js
from jaxsamplers import problems
from tests.reference import problem

VP = js.processes.vp_linear()
FLOW = js.processes.rectified_flow()
STEPS = 5


def mixture(process):
    return js.analytic.gaussian_mixture(process, problem.MEANS, problem.COVARIANCES, weights=problem.WEIGHTS)


def with_coordinates(start, coordinates):
    return dataclasses.replace(start, learned={"coordinates": jnp.asarray(coordinates, jnp.result_type(float))})


sampled = jax.jit(lambda build, parameters, model, x: build.sample(parameters, model, x))


def test_no_correction_is_the_base_solver(x64):
    times, x = js.schedules.half_log_snr(VP, STEPS), jnp.asarray(problem.STARTS)
    build, start = js.learn.pas(VP, STEPS, schedule=times, order=3)
    base = js.solvers.ipndm(VP, times, order=3)
    wanted = jax.jit(js.sample)(base, mixture(VP), x)
    np.testing.assert_allclose(sampled(build, start, mixture(VP), x), wanted, rtol=1e-11, atol=1e-11)
    assert js.network_calls(build(start)) == STEPS
    moved = with_coordinates(start, np.full((STEPS, 4), 0.05))
    assert np.abs(sampled(build, moved, mixture(VP), x) - wanted).max() > 1e-3


def test_pure_noise_is_corrected_in_the_flows_coordinates(x64):
    times, x = js.schedules.uniform(FLOW, STEPS), jnp.asarray(problem.STARTS)
    build, start = js.learn.pas(FLOW, STEPS, schedule=times)
    wanted = jax.jit(js.sample)(js.solvers.ddim(FLOW, times), mixture(FLOW), x)
    np.testing.assert_allclose(sampled(build, start, mixture(FLOW), x), wanted, rtol=1e-11, atol=1e-11)
    with pytest.raises(ValueError, match='coordinate="flow"'):
        js.learn.pas(FLOW, STEPS, coordinate="edm")


@pytest.mark.parametrize(("taken", "size"), [(0, 6), (1, 6), (4, 6), (4, 3)])
def test_the_basis_is_numpys(taken, size, x64):
    rng = np.random.default_rng(taken)
    rows = rng.normal(size=(2, 7, size)) * np.array([50.0, *[1.0] * 6])[:, None]
    rows[:, taken + 1 :] = 7.0  # not filled yet
    direction, y = rng.normal(size=(2, 2, size))
    at = jax.jit(js.learn.principal_basis, static_argnames="components")
    basis = np.asarray(at(jnp.asarray(rows), jnp.asarray(direction), jnp.asarray(y), jnp.int32(taken), components=4))
    for mine, seen, d, place in zip(basis, rows, direction, y, strict=True):
        q = np.concatenate([seen[: taken + 1], d[None]])
        _, spread, principal = np.linalg.svd(q - q.mean(axis=0), full_matrices=False)
        real = min(3, taken + 1, size - 1)
        triangle = np.linalg.qr(np.concatenate([d[None], principal[:real]]).T)[0].T
        np.testing.assert_allclose(np.abs(np.sum(mine[: real + 1] * triangle, axis=1)), 1.0, rtol=1e-10)
        np.testing.assert_allclose(mine[0], d / np.linalg.norm(d), rtol=1e-12)
        np.testing.assert_array_equal(mine[real + 1 :], 0.0)
        assert (mine[1:] @ (place - seen[0] if taken else place) >= 0).all()
        assert spread[real - 1] > 1e-6


@jax.jit
def misses(build, parameters, model, x, path, moved, power):
    """The mean over samples of each step's error, with the step's coordinates moved and those before it kept."""

    def one(i, change):
        coordinates = parameters.learned["coordinates"].at[i].add(change)
        sampler = build(dataclasses.replace(parameters, learned={"coordinates": coordinates}))
        _, places = js.run(sampler, model, x, record=lambda state: state.x)
        scale = jax.vmap(VP.alpha)(parameters.times(VP)[1:])[i]
        return jnp.mean(jnp.abs((places[i] - path[:, i]) / scale) ** power)

    return jax.lax.map(lambda i: jax.lax.map(lambda change: one(i, change), moved), jnp.arange(path.shape[1]))


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_coordinates_are_the_best_of_their_step(power, x64):
    """Every change makes the error after its step larger; for least squares its derivative is 0."""
    x, model = jnp.asarray(problem.STARTS), mixture(VP)
    times = js.schedules.half_log_snr(VP, 3)
    build, start = js.learn.pas(VP, 3, schedule=times, components=3)
    fine = js.schedules.half_log_snr(VP, 60)
    path = js.learn.along(VP, fine, js.learn.paths(VP, model, x, fine), times[1:], "half_log_snr").swapaxes(0, 1)
    found = js.learn.pas_search(build, start, model, x, path, tolerance=0.0, power=power)
    change = 1e-3 * np.concatenate([np.zeros((1, 3)), np.eye(3), -np.eye(3)])
    errors = np.asarray(misses(build, found, model, x, path, jnp.asarray(change), power))
    assert (errors[:, 1:] >= errors[:, :1] * (1 - 1e-6)).all()
    if power == 2:
        slope = (errors[:, 1:4] - errors[:, 4:]) / 2e-3
        curvature = (errors[:, 1:4] + errors[:, 4:] - 2 * errors[:, :1]) / 1e-6
        assert (np.abs(slope) <= 1e-5 * np.maximum(curvature, 1e-3)).all()
    untouched = js.learn.pas_search(build, start, model, x, path, tolerance=1e6, power=power)
    assert not np.asarray(untouched.learned["coordinates"]).any()
    again = js.learn.pas_search(build, start, model, x, path, tolerance=0.0, power=power)
    np.testing.assert_array_equal(again.learned["coordinates"], found.learned["coordinates"])


def test_gradients_through_the_last_step_are_differences(x64):
    build, start = js.learn.pas(VP, 3, schedule=js.schedules.half_log_snr(VP, 3), order=2)
    x, model = jnp.asarray(problem.STARTS), mixture(VP)
    weights = jnp.asarray(np.random.default_rng(0).normal(size=x.shape))

    @jax.jit
    @jax.value_and_grad
    def value(last):
        coordinates = jnp.full((3, 4), 0.02).at[-1].set(last)
        return jnp.sum(weights * build.sample(with_coordinates(start, coordinates), model, x))

    at = jnp.array([0.1, -0.05, 0.02, 0.0])
    slope = value(at)[1]
    differences = [(value(at.at[k].add(1e-4))[0] - value(at.at[k].add(-1e-4))[0]) / 2e-4 for k in range(4)]
    np.testing.assert_allclose(slope, differences, rtol=1e-7, atol=1e-9)
    assert np.abs(slope[:2]).min() > 1e-3  # two numbers have no third direction


def test_learning_beats_its_base_on_fresh_noises():
    made = problems.mixture_8()
    model, times = made.denoiser(VP), js.schedules.half_log_snr(VP, STEPS)
    x = VP.prior(jax.random.key(0), (384, *made.shape))
    fine = js.schedules.half_log_snr(VP, 60)
    path = js.learn.along(VP, fine, js.learn.paths(VP, model, x, fine), times[1:], "half_log_snr").swapaxes(0, 1)
    build, start = js.learn.pas(VP, STEPS, schedule=times)
    found = js.learn.pas_search(build, start, model, x[:256], path[:256], tolerance=1e-2)
    error = lambda p: float(js.learn.rms(sampled(build, p, model, x[256:]), path[256:, -1]).mean())
    assert error(found) < 0.45 * error(start)
    corrected = np.asarray(found.learned["coordinates"]).any(axis=1)
    assert not corrected[0]  # the path bends late
    assert corrected[2:].any()
    halves = build(found)
    whole = sampled(build, found, model, x[256:])
    state = jax.jit(lambda x: js.run(halves[2:], model, js.run(halves[:2], model, x)))(x[256:])
    np.testing.assert_allclose(state.x, whole, rtol=1e-3, atol=1e-3)
    each = jax.jit(jax.vmap(lambda one: build.sample(found, model, one[None])[0]))(x[256:])
    np.testing.assert_allclose(each, whole, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"order": 5}, "order must be from 1 to 4"),
        ({"components": 0}, "components must be at least 1"),
        ({"coordinate": "edn"}, "unknown coordinate 'edn'"),
    ],
)
def test_what_is_no_sampler_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        js.learn.pas(VP, STEPS, **arguments)


def test_what_is_no_path_is_refused():
    build, start = js.learn.pas(VP, STEPS)
    x = jnp.ones((4, 2))
    with pytest.raises(ValueError, match="path must hold the teacher's place after each step"):
        js.learn.pas_search(build, start, mixture(VP), x, jnp.ones((STEPS, 4, 2)))
    with pytest.raises(ValueError, match="power must be at least 1"):
        js.learn.pas_search(build, start, mixture(VP), x, jnp.ones((4, STEPS, 2)), power=3.0)
