"""Dynamic programming against the enumeration of all paths, NumPy's own DDIM steps and Gaussian data's exact flow."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsamplers as js
from jaxsamplers.learn.dynamic import nearest_paths, straightness
from tests.cases import like, mixture

VP = js.processes.vp_linear()
TIMES = np.array([1.0, 0.7, 0.5, 0.3, 0.15, 0.05, 0.001])


def total(cost, gamma, path):
    return sum(gamma**k * cost[a, b] for k, (a, b) in enumerate(itertools.pairwise(path)))


def increasing(nodes, steps):
    return [(0, *inner, nodes - 1) for inner in itertools.combinations(range(1, nodes - 1), steps - 1)]


@pytest.mark.parametrize("steps", [1, 2, 4, 6])
def test_shortest_path_is_the_best_of_all(steps):
    rng = np.random.default_rng(steps)
    for gamma in (0.8, 1.0, 1.15):
        cost = rng.normal(size=(7, 7))
        best = min(increasing(7, steps), key=functools.partial(total, cost, gamma))
        assert tuple(np.asarray(js.learn.shortest_path(cost, steps, gamma))) == best


def problem():
    model = mixture(VP)
    return model, VP.prior(jax.random.key(0), like((5, 2)))


def known(model):
    return jax.jit(lambda x, t: model(x, t))


@functools.cache
def levels(t):
    return float(VP.alpha(t)), float(VP.sigma(t))


def ddim(model, x, t, t_next):
    (alpha, sigma), (alpha_next, sigma_next) = levels(t), levels(t_next)
    m = np.asarray(model(x, t))
    return alpha_next * m + sigma_next * (x - alpha * m) / sigma


def teacher(model, x, times):
    """DDIM's path."""
    path = [np.asarray(x)]
    for t, t_next in itertools.pairwise(times):
        path.append(ddim(model, path[-1], t, t_next))
    return np.array(path)


@pytest.mark.parametrize("metric", ["dev", "l1", "l2"])
def test_costs_of_straight_steps_written_out(x64, metric):
    """Euler's steps in ``sigma / alpha``; the distance from a line through two points by the area of a triangle."""
    model, x = problem()
    denoise = known(model)
    path = teacher(denoise, x, TIMES)
    alphas, sigmas = np.array([levels(t) for t in TIMES]).T
    y = path / alphas[:, None, None]
    first, last = y[0], y[-1]

    def off_chord(z):
        a, b = z - first, last - first
        return np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) / np.hypot(b[:, 0], b[:, 1])

    cost = np.full((len(TIMES), len(TIMES)), np.inf)
    for i, j in itertools.combinations(range(len(TIMES)), 2):
        noise = (path[i] - alphas[i] * np.asarray(denoise(path[i], TIMES[i]))) / sigmas[i]
        z = y[i] + (sigmas[j] / alphas[j] - sigmas[i] / alphas[i]) * noise
        distances = {
            "l1": np.abs(z - y[j]).sum(axis=1),
            "l2": np.sqrt(((z - y[j]) ** 2).sum(axis=1)),
            "dev": off_chord(z) - off_chord(y[j]),
        }
        cost[i, j] = distances[metric].mean()
    ours = straightness(VP, model, x, jnp.asarray(TIMES), js.solvers.ddim, metric, "edm")
    np.testing.assert_allclose(ours, cost, rtol=1e-9, atol=1e-9)
    best = min(increasing(len(TIMES), 3), key=functools.partial(total, cost, 1.15))
    chosen = js.learn.gits(VP, model, x, TIMES, 3, solver=js.solvers.ddim, metric=metric)
    np.testing.assert_array_equal(chosen, TIMES[list(best)])


def recursion(model, x, goal, times, steps):
    """The authors' program for samples on one path of exactly ``steps`` steps: error, nodes, end."""
    states = {0: (0.0, (0,), np.asarray(x))}
    for _ in range(steps):
        new = {}
        for i, (_, nodes, here) in sorted(states.items()):
            for j in range(i + 1, len(times)):
                landed = ddim(model, here, times[i], times[j])
                error = ((landed - goal[j]) ** 2).sum(axis=1).mean()
                if j not in new or error < new[j][0]:
                    new[j] = (error, (*nodes, j), landed)
        states = new
    return states[len(times) - 1]


@pytest.mark.parametrize("steps", [2, 4])
def test_nearest_paths_are_those_of_the_recursion_and_end_as_claimed(x64, steps):
    model, x = problem()
    denoise = known(model)
    goal = teacher(denoise, x, TIMES)
    own = nearest_paths(VP, model, x, jnp.asarray(TIMES), js.solvers.ddim, steps, False)
    shared = nearest_paths(VP, model, x, jnp.asarray(TIMES), js.solvers.ddim, steps, True)
    for k in range(len(x)):
        error, nodes, landed = recursion(denoise, x[k : k + 1], goal[:, k : k + 1], TIMES, steps)
        assert tuple(np.asarray(own.nodes[:, k])) == nodes
        np.testing.assert_allclose(own.error[k], error, rtol=1e-9)
        np.testing.assert_allclose(own.sample[k], landed[0], rtol=1e-9)
    error, nodes, landed = recursion(denoise, x, goal, TIMES, steps)
    assert all(tuple(np.asarray(column)) == nodes for column in shared.nodes.T)
    np.testing.assert_allclose(shared.error, np.full(len(x), error), rtol=1e-9)
    ended = js.sample(js.solvers.ddim(VP, TIMES[list(nodes)]), model, x)
    np.testing.assert_allclose(ended, landed, rtol=1e-9)
    np.testing.assert_allclose(((ended - goal[-1]) ** 2).sum(axis=1).mean(), error, rtol=1e-9)
    if steps == 2:  # states after one step have one path: nothing was given up
        end_of = jax.jit(lambda times: js.sample(js.solvers.ddim(VP, times), model, x))
        ends = [end_of(TIMES[list(path)]) for path in increasing(len(TIMES), 2)]
        best = min(float(((end - goal[-1]) ** 2).sum(axis=1).mean()) for end in ends)
        np.testing.assert_allclose(error, best, rtol=1e-9)
    one = js.learn.oss(VP, model, x, TIMES, steps, solver=js.solvers.ddim, paths="shared")
    np.testing.assert_array_equal(one, TIMES[list(nodes)])
    several = js.learn.oss(VP, model, x, TIMES, steps, solver=js.solvers.ddim)
    np.testing.assert_array_equal(several, TIMES[np.median(np.asarray(own.nodes), axis=1).astype(int)])


VARIANCES = np.array([0.04, 0.25, 1.0])
EQUAL = np.full(3, 0.25)


def gaussian(variances):
    """The denoiser of ``N(0, variances)``."""

    def denoise(x, t):
        alpha, sigma = VP.alpha(t), VP.sigma(t)
        return alpha * variances * x / (alpha**2 * variances + sigma**2)

    return denoise


def flow(variances, x):
    (alpha, sigma), (alpha_next, sigma_next) = levels(1.0), levels(0.001)
    return x * np.sqrt((alpha_next**2 * variances + sigma_next**2) / (alpha**2 * variances + sigma**2))


def test_gaussian_data_get_better_schedules_than_those_they_are_chosen_from(x64):
    """Against the exact flow; with one variance the best schedule is known: equal angles."""
    fine = js.schedules.half_log_snr(VP, 60)
    train, fresh = (VP.prior(jax.random.key(i), like((64, 3))) for i in range(2))

    end = jax.jit(lambda variances, times: js.sample(js.solvers.ddim(VP, times), gaussian(variances), fresh))

    def error(variances, times):
        return float(jnp.linalg.norm(end(variances, times) - flow(variances, fresh), axis=1).mean())

    equal = error(VARIANCES, fine[::10])
    model = gaussian(VARIANCES)
    assert error(VARIANCES, js.learn.gits(VP, model, train, fine, 6)) < 0.85 * equal  # 0.78
    assert error(VARIANCES, js.learn.gits(VP, model, train, fine, 6, metric="l2")) < 0.75 * equal  # 0.71
    for paths in ("median", "shared"):
        assert error(VARIANCES, js.learn.oss(VP, model, train, fine, 6, paths=paths)) < 0.65 * equal  # 0.61
    best = error(EQUAL, js.schedules.arctan_uniform(VP, 6, std=0.5))
    assert best < error(EQUAL, js.learn.oss(VP, gaussian(EQUAL), train, fine, 6)) < 1.02 * best  # 1.008


def test_pure_noise_pytrees_and_an_origin(x64):
    """On the straight path from its very start; a sample in two parts, drifting to a point, is one moved sample."""
    process = js.processes.rectified_flow()
    fine = jnp.linspace(1.0, 0.0, 13)

    def denoise(x, t):
        alpha, sigma = process.alpha(t), process.sigma(t)
        return jax.tree.map(lambda leaf: 0.5 + 0.1 * alpha * (leaf - 0.5 * alpha) / (0.1 * alpha**2 + sigma**2), x)

    x = process.prior(jax.random.key(0), like((6, 3)))
    shifted = js.processes.shifted(process, 2.0)
    moved = lambda x, t: {k: 2 + m for k, m in denoise({k: v - 2 for k, v in x.items()}, t).items()}
    parts = {"a": x[:, :1] + 2, "b": x[:, 1:] + 2}
    for search in (js.learn.oss, lambda *a: js.learn.gits(*a, coordinate="flow")):
        times = search(process, denoise, x, fine, 4)
        js.schedules.validate(process, times)
        assert (times[0], times[-1]) == (1, 0)
        np.testing.assert_array_equal(search(shifted, moved, parts, fine, 4), times)
    with pytest.raises(ValueError, match='needs signal at the first time, but alpha is 0 there: use "flow"'):
        js.learn.gits(process, denoise, x, fine, 4)


def test_a_second_search_of_the_same_shape_compiles_nothing():
    traced = []

    def denoise(x, t):
        traced.append(1)
        return 0.5 * x

    def search(seed):
        x = VP.prior(jax.random.key(seed), (4, 2))
        js.learn.oss(VP, denoise, x, TIMES - 1e-4 * seed, 3)
        js.learn.gits(VP, denoise, x, TIMES - 1e-4 * seed, 3)
        return len(traced)

    assert search(0) == search(1) > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m, x: js.learn.shortest_path(jnp.ones((3, 4)), 2), r"a square matrix, got shape \(3, 4\)"),
        (lambda m, x: js.learn.shortest_path(jnp.ones((3, 3)), 3), "steps must be from 1 to 2, got 3"),
        (lambda m, x: js.learn.shortest_path(jnp.ones((3, 3)), 2, 0.0), "gamma must be above 0, got 0"),
        (lambda m, x: js.learn.gits(VP, m, x, TIMES, 7), "steps must be from 1 to 6, got 7"),
        (lambda m, x: js.learn.gits(VP, m, x, TIMES, 3, metric="l3"), "unknown metric 'l3'"),
        (lambda m, x: js.learn.gits(VP, m, x, TIMES, 3, coordinate="x"), "unknown coordinate 'x'"),
        (lambda m, x: js.learn.gits(VP, m, x, TIMES[::-1], 3), "times must be strictly decreasing"),
        (lambda m, x: js.learn.oss(VP, m, x, TIMES, 3, paths="mean"), "unknown paths 'mean'"),
        (lambda m, x: js.learn.oss(VP, m, x, TIMES, 3, solver=js.solvers.heun), "make one network call a step"),
        (lambda m, x: js.learn.gits(VP, m, x, TIMES, 3, solver=js.solvers.ddpm), "must be deterministic"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(lambda x, t: x, jnp.ones((3, 2)))
