import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.integrate
from jax.tree_util import Partial

import jaxsamplers as js
from jaxsamplers import problems
from jaxsamplers.learn.align_your_steps import align_your_steps, subdivide
from jaxsamplers.learn.klub import klub, klub_gaussian, klub_intervals, klub_objective

KEY = jax.random.key(0)
STD = 0.7
estimate = jax.jit(klub, static_argnames="draws")


def gaussian(process, dimensions):
    return js.analytic.gaussian_mixture(process, jnp.zeros((1, dimensions)), STD**2)


def gaussian_data(samples, dimensions):
    return STD * jax.random.normal(jax.random.key(3), (samples, dimensions))


def least(process, times, std):
    """Where the KLUB of Gaussian data is least: equal ratios of the posterior variances, between the same ends."""
    levels = jnp.log1p(std**2 * jnp.exp(2 * process.half_log_snr(times)))
    between = jnp.linspace(levels[0], levels[-1], len(times))[1:-1]
    inner = process.time(0.5 * jnp.log(jnp.expm1(between) / std**2))
    return jnp.concatenate([times[:1], inner, times[-1:]])


def standard_errors(values, expected):
    """How far the mean of independent estimates [k, ...] is from what it should be."""
    values = np.asarray(values, np.float64)
    return (values.mean(0) - expected) / (values.std(0, ddof=1) / np.sqrt(len(values)))


def test_gaussian_formula(x64):
    """The expectation by hand, E|a z_s - b z_i|^2 of jointly normal z, and its integral by quadrature."""
    s = np.array([40.0, 3.0, 1.0, 0.5, 0.04])

    def integrand(t, s_i):
        a, b = STD**2 / (STD**2 + t**2), STD**2 / (STD**2 + s_i**2)
        variance, further = STD**2 + t**2, STD**2 + s_i**2  # cov(z_s, z_i) = var z_s
        return (a**2 * variance - 2 * a * b * variance + b**2 * further) / t**3

    parts = [scipy.integrate.quad(integrand, low, high, args=(high,))[0] for high, low in itertools.pairwise(s)]
    expected = 5 * sum(parts)
    np.testing.assert_allclose(klub_gaussian(js.processes.edm(), s, std=STD, dimensions=5), expected, rtol=1e-9)


def test_gaussian_formula_in_float32():
    """Steps so small that y - log(1 + y) cancels."""
    times = np.array([2.0, 1.998046875, 1.99609375], np.float32)
    with jax.enable_x64(True):
        expected = klub_gaussian(js.processes.edm(), times.astype(np.float64))
    np.testing.assert_allclose(klub_gaussian(js.processes.edm(), times), expected, rtol=2e-3)


@pytest.mark.parametrize("name", ["vp_linear", "rectified_flow", "drifting"])
def test_gaussian_data(name):
    """Within the errors of the estimates, wherever levels are drawn; from pure noise, and about an origin."""
    edge = 1.0 if name == "rectified_flow" else 0.9
    process = js.processes.rectified_flow() if name == "rectified_flow" else js.processes.vp_linear()
    times = jnp.array([edge, 0.8, 0.5, 0.2, 0.02])
    model = gaussian(process, 3)
    if name == "drifting":
        process = js.processes.shifted(process, jnp.array([5.0, 0.0, -1.0]))
        model = js.analytic.gaussian_mixture(process, jnp.zeros((1, 3)), STD**2)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None))
    def estimates(key, c):
        data = STD * jax.random.normal(jax.random.fold_in(key, 1), (256, 3))
        return klub_intervals(process, model, times, data, key, c=c)

    expected = np.array([klub_gaussian(process, times[i : i + 2], std=STD, dimensions=3) for i in range(4)])
    for c in (0.2, STD):
        values = estimates(jax.random.split(KEY, 64), c)
        assert np.abs(standard_errors(values, expected)).max() < 3.5
    spread = np.asarray(values.std(0) / values.mean(0))  # at the right c only chi-squares of 3 degrees of freedom vary
    np.testing.assert_allclose(spread, np.sqrt(2 / 3 / 256), rtol=0.3)


def test_mixture_by_quadrature(x64):
    """In one dimension: mmse(s_i) - mmse(s) over ds / s^3, with mmse an integral over z."""
    process = js.processes.edm()
    times = np.array([5.0, 1.0, 0.3, 0.1])
    means, spread, weights = np.array([-1.0, 0.6]), 0.2, np.array([0.3, 0.7])
    z = np.linspace(-40.0, 40.0, 40_001)

    def mmse(s):
        joint = weights * np.exp(-((z[:, None] - means) ** 2) / (2 * (spread**2 + s**2))) / np.sqrt(spread**2 + s**2)
        gain = spread**2 / (spread**2 + s**2)
        estimate = np.sum(joint * (means + gain * (z[:, None] - means)), axis=1) / np.maximum(joint.sum(1), 1e-300)
        density = joint.sum(1) / np.sqrt(2 * np.pi)
        return np.sum(weights * (means**2 + spread**2)) - np.trapezoid(density * estimate**2, z)

    def step(high, low):
        top = mmse(high)
        return scipy.integrate.quad(lambda s: (top - mmse(s)) / s**3, low, high, epsrel=1e-5)[0]

    expected = np.array([step(high, low) for high, low in itertools.pairwise(times)])
    model = js.analytic.gaussian_mixture(process, means[:, None], spread**2, weights)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None))
    def estimates(key, c):
        data = jnp.sort(model.draw(jax.random.fold_in(key, 1), 256), axis=0)  # a data set's order means nothing
        return klub_intervals(process, model, times, data, key, c=c)

    for c in (0.5, 2.0):
        assert np.abs(standard_errors(estimates(jax.random.split(KEY, 256), c), expected)).max() < 3.5


def test_sum_of_steps_and_trees():
    """A step's estimate depends on its own ends only; data may be a tree; data are used in turn."""
    process = js.processes.vp_linear()
    data, model = gaussian_data(16, 2), gaussian(process, 2)
    times = jnp.array([0.9, 0.5, 0.3, 0.01])
    steps = jax.jit(lambda t: klub_intervals(process, model, t, data, KEY, draws=40))
    first = steps(times)
    np.testing.assert_allclose(estimate(process, model, times, data, KEY, draws=40), first.sum(), rtol=1e-6)
    moved = steps(times.at[2].set(0.2))
    assert moved[0] == first[0]
    assert moved[1] != first[1]
    of_tree = Partial(lambda x, t: {"a": model(x["a"], t)})
    tree = estimate(process, of_tree, times, {"a": jnp.tile(data, (2, 1))}, KEY, draws=40)
    np.testing.assert_allclose(tree, first.sum(), rtol=1e-5)


def test_gradient(x64):
    """By finite differences, of the logarithm that ``klub_objective`` gives, with its own key."""
    process = js.processes.vp_linear()
    model = problems.mixture().denoiser(process)
    data, times = model.draw(KEY, 32), jnp.array([0.95, 0.6, 0.25, 0.02])
    objective = klub_objective(process, model, times=jnp.exp, key=KEY)
    both = jax.jit(jax.value_and_grad(lambda u: objective(u, data, jax.random.key(1))))
    value, slope = both(jnp.log(times))
    differences = [(both(jnp.log(times) + e)[0] - both(jnp.log(times) - e)[0]) / 2e-6 for e in 1e-6 * np.eye(4)]
    np.testing.assert_allclose(slope, differences, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(jnp.exp(value), estimate(process, model, times, data, KEY), rtol=1e-12)


def test_gradient_descent_finds_the_least():
    """From uniform times by Adam, fresh noise in every step, through ``learn.parameters``."""
    process = js.processes.vp_linear()
    model, data = gaussian(process, 16), gaussian_data(256, 16)
    parameters = js.learn.parameters(process, 5, schedule=js.schedules.uniform(process, 5))
    result = js.learn.fit(
        klub_objective(process, model, c=STD),
        parameters,
        optimizer=optax.adam(optax.cosine_decay_schedule(0.1, 150)),
        batches=js.learn.batches(data, 64),
        steps=150,
        report=lambda *_, **__: None,
    )
    found = result.last.times(process)
    value = functools.partial(klub_gaussian, process, std=STD)
    best = value(least(process, found, STD))
    assert value(parameters.times(process)) > 1.5 * best
    np.testing.assert_allclose(value(found), best, rtol=1e-3)


def test_the_least_is_the_least(x64):
    """What the searches are held against: no slope, and worse on every side."""
    process = js.processes.edm()
    times = least(process, jnp.geomspace(80.0, 0.002, 7), STD)
    value = jax.jit(functools.partial(klub_gaussian, process, std=STD))
    np.testing.assert_allclose(jax.grad(value)(times)[1:-1] * times[1:-1], 0.0, atol=1e-10 * value(times))
    nudges = 0.05 * jax.random.normal(KEY, (50, 7)).at[:, jnp.array([0, -1])].set(0.0)
    assert (jax.vmap(value)(times * jnp.exp(nudges)) > value(times)).all()


@pytest.mark.parametrize("name", ["edm", "rectified_flow"])
def test_coordinate_search_finds_the_least(name):
    """Within the noise of the estimate; every sweep is an improvement, in the search's own numbers and in truth."""
    process = js.processes.registry[name]()
    model, data = gaussian(process, 64), gaussian_data(128, 64)
    start = jnp.geomspace(20.0, 0.02, 6) if name == "edm" else jnp.linspace(1.0, 0.02, 6)  # that one from pure noise
    reports = []
    report = lambda done, total, **numbers: reports.append((done, total, numbers["klub"]))
    found = align_your_steps(process, model, data, start, KEY, sweeps=60, c=STD, report=report)
    value = functools.partial(klub_gaussian, process, std=STD, dimensions=64)
    best = value(least(process, start, STD))
    assert value(start) > 1.3 * best
    np.testing.assert_allclose(value(found), best, rtol=1e-2, err_msg=f"{found} after {reports}")
    assert found[0] == start[0]
    assert found[-1] == start[-1]
    numbers = [estimate(process, model, start, data, KEY, c=STD), *[r[2] for r in reports]]
    assert (np.diff(numbers) <= 1e-6 * numbers[0]).all()
    np.testing.assert_allclose(estimate(process, model, found, data, KEY, c=STD), numbers[-1], rtol=1e-5)
    assert [r[:2] for r in reports] == [(k + 1, 60) for k in range(len(reports))]
    assert 3 < len(reports) < 60  # stopped when nothing moved
    assert numbers[-1] == numbers[-2]


def searched(metric=None, **options):
    """A search of three steps on a small problem, and the schedules it went through."""
    process = js.processes.vp_linear()
    seen = []

    def ask(times):
        seen.append(times)
        return metric[len(seen) - 1]

    start = jnp.array([0.9, 0.89, 0.88, 0.01])
    ask = None if metric is None else ask
    return align_your_steps(
        process, gaussian(process, 2), gaussian_data(64, 2), start, KEY, metric=ask, **options
    ), seen


def test_the_metric_chooses():
    """The best schedule seen, not the last; sweeps end when it has not improved for a while."""
    found, seen = searched([5.0, 3.0, 4.0, 2.0, 2.5, 2.0, 9.0], sweeps=20, patience=2)
    assert len(seen) == 6
    assert (found == seen[3]).all()
    assert (found != seen[5]).any()
    found, seen = searched([1.0, 2.0, 3.0], sweeps=2)
    assert len(seen) == 3
    assert (found == jnp.array([0.9, 0.89, 0.88, 0.01])).all()
    found, _ = searched(sweeps=2)
    assert (found == seen[2]).all()


def test_the_estimate_never_rises():
    """Exactly the numbers that ``klub`` gives with this key are made smaller, however few the draws."""
    process = js.processes.vp_linear()
    model, data = gaussian(process, 2), gaussian_data(64, 2)
    start, seen = least(process, jnp.linspace(0.9, 0.01, 6), STD), []
    ask = lambda times: float(seen.append(times) or 0.0)
    align_your_steps(process, model, data, start, KEY, sweeps=12, patience=12, draws=3, metric=ask)
    values = np.array([estimate(process, model, times, data, KEY, draws=3) for times in seen])
    assert (np.diff(values) <= 1e-6 * values[0]).all()
    assert values[-1] < 0.97 * values[0]


def test_a_step_to_the_clean_end_stays():
    """The rest is searched as if it were alone, and whoever judges sees all of it."""
    process, shown = js.processes.rectified_flow(), []
    model, data = gaussian(process, 2), gaussian_data(64, 2)
    times = jnp.array([1.0, 0.6, 0.5, 0.1])
    alone = align_your_steps(process, model, data, times, KEY)
    metric = lambda times: -len(shown) if shown.append(times) is None else None
    found = align_your_steps(process, model, data, jnp.append(times, 0.0), KEY, metric=metric)
    np.testing.assert_array_equal(found, jnp.append(alone, 0.0))
    np.testing.assert_array_equal(shown[-1], found)
    assert (found[1:3] != times[1:3]).any()


def test_doubling_places_the_new_nodes_only():
    process = js.processes.vp_linear()
    coarse, _ = searched(sweeps=3)
    fine, _ = searched(sweeps=3, doublings=1)
    np.testing.assert_array_equal(fine[::2], coarse)
    middle = subdivide(process, coarse)
    np.testing.assert_array_equal(middle[::2], coarse)
    levels = process.half_log_snr(middle)
    np.testing.assert_allclose(levels[1::2], (levels[:-1:2] + levels[2::2]) / 2, rtol=1e-5)
    model, data = gaussian(process, 2), gaussian_data(64, 2)
    assert estimate(process, model, fine, data, KEY) < estimate(process, model, middle, data, KEY)
    flow = js.processes.rectified_flow()
    levels = flow.half_log_snr(subdivide(flow, jnp.array([1.0, 0.5, 0.2])))
    np.testing.assert_allclose(levels[1], 2 * levels[2] - levels[4], rtol=1e-5)
    with pytest.raises(ValueError, match="no middle"):
        subdivide(flow, jnp.array([1.0, 0.5]))


def test_a_second_search_compiles_nothing():
    process = js.processes.vp_linear()
    perfect, traces = gaussian(process, 2), []

    def model(x, t):
        traces.append(x.shape)
        return perfect(x, t)

    for seed in range(2):
        start = jnp.linspace(0.9 + seed / 20, 0.01, 5)
        align_your_steps(process, model, gaussian_data(64, 2) + seed, start, jax.random.key(seed), c=0.5 + seed)
        traced = traced if seed else len(traces)
    assert traced > 0
    assert len(traces) == traced


def test_refusals():
    process, data = js.processes.rectified_flow(), gaussian_data(8, 2)
    model, times = gaussian(process, 2), jnp.array([1.0, 0.5, 0.1])
    with pytest.raises(ValueError, match="clean end is infinite"):
        klub(process, model, jnp.array([1.0, 0.5, 0.0]), data, KEY)
    with pytest.raises(ValueError, match="c must be above 0"):
        klub(process, model, times, data, KEY, c=0.0)
    with pytest.raises(ValueError, match="c must be above 0"):
        klub_objective(process, model, c=-1.0)
    with pytest.raises(ValueError, match="draws must be at least 1"):
        klub(process, model, times, data, KEY, draws=0)
    with pytest.raises(ValueError, match="x0 must hold samples"):
        klub(process, model, times, data[:0], KEY)
    with pytest.raises(ValueError, match="x0 must hold samples"):
        klub(process, model, times, {"a": data, "b": data[:3]}, KEY)
    with pytest.raises(ValueError, match="normal noise, this process has StudentT"):
        klub(js.processes.pfgm_plus_plus(), model, times, data, KEY)
    with pytest.raises(ValueError, match="steps of times before the clean end must be at least 2"):
        align_your_steps(process, model, data, times[:2], KEY)
    for name in ("sweeps", "patience"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1"):
            align_your_steps(process, model, data, times, KEY, **{name: 0})
    with pytest.raises(FloatingPointError, match="KLUB of a schedule is not a number"):
        align_your_steps(process, lambda x, t: x * jnp.nan, data, times, KEY)
    with pytest.raises(FloatingPointError, match="metric of a schedule is not a number"):
        align_your_steps(process, model, data, times, KEY, metric=lambda t: jnp.nan)
