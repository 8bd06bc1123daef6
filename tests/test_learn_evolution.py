"""Evolution on problems whose optimum is known, and searches over decisions against the enumeration of all of them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import jaxsamplers as js
from jaxsamplers.learn.decisions import Candidate, cross, mutate

VP = js.processes.vp_linear()
TARGET = np.array([3, 0, 5, 1, 4, 2, 2, 0])


def change(key, candidate):
    """Each number drawn anew, sometimes."""
    draw, which = jax.random.split(key)
    fresh = jax.random.randint(draw, candidate.shape, 0, 6)
    return jnp.where(jax.random.bernoulli(which, 0.15, candidate.shape), fresh, candidate)


def mix(key, one, other):
    return jnp.where(jax.random.bernoulli(key, 0.5, one.shape), one, other)


def distance(candidate):
    return jnp.sum((candidate - TARGET) ** 2).astype(float)


def population(size=20, seed=7):
    return jax.random.randint(jax.random.key(seed), (size, 8), 0, 6)


def test_the_optimum_is_found_and_the_best_never_lost():
    seen = []
    report = lambda number, total, **numbers: seen.append((number, total, numbers["best"], numbers["evaluations"]))
    found = js.learn.evolve(jax.random.key(0), population(), change, mix, distance, generations=25, report=report)
    np.testing.assert_array_equal(found.candidates[0], TARGET)
    assert found.fitness[0] == 0
    best = [float(jax.vmap(distance)(population()).min()), *[entry[2] for entry in seen]]
    assert best == sorted(best, reverse=True)
    assert [entry[0] for entry in seen] == [*range(1, 26)]
    assert seen[-1][3] == int(found.evaluations) == 20 * 26
    np.testing.assert_array_equal(found.fitness, jax.vmap(distance)(found.candidates))
    assert len(np.unique(np.asarray(found.candidates[:5]), axis=0)) == 5  # nobody twice


def test_resumed_is_uninterrupted():
    """From a pytree of arrays, as it would be read from a file; and it depends on the key."""
    go = lambda key, start, generations: js.learn.evolve(
        jax.random.key(key), start, change, mix, distance, generations=generations, predictor=js.learn.kernel_ridge
    )
    whole = go(0, population(), 6)
    part = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), go(0, population(), 2))
    jax.tree.map(np.testing.assert_array_equal, go(0, part, 6), whole)
    assert not np.array_equal(go(1, population(), 6).candidates, whole.candidates)


def test_a_predictor_needs_fewer_evaluations():
    """To come within a distance of 3, six searches try 336 candidates instead of 516."""

    def needed(predictor):
        total = 0
        for seed in range(6):
            seen = []
            js.learn.evolve(
                jax.random.key(seed),
                population(12, seed),
                change,
                mix,
                distance,
                generations=10,
                predictor=predictor,
                memory=256,
                report=lambda number, total, best, evaluations: seen.append((best, evaluations)),  # noqa: B023
            )
            total += next((evaluations for best, evaluations in seen if best <= 3), 11 * 12)
        return total

    assert needed(js.learn.kernel_ridge) < 0.8 * needed(None)


def test_nan_is_the_worst_and_nothing_is_compiled_twice():
    traced = []

    def picky(goal, candidate):
        traced.append(1)
        return jnp.where(candidate[0] == 0, jnp.nan, jnp.sum((candidate - goal) ** 2).astype(float))

    def go(goal, seed):
        fitness = Partial(picky, jnp.asarray(goal))
        found = js.learn.evolve(jax.random.key(seed), population(), change, mix, fitness, generations=12)
        return found, len(traced)

    found, once = go(TARGET, 0)
    assert np.isfinite(found.fitness).all()
    assert (found.candidates[:, 0] > 0).all()
    other, twice = go(TARGET[::-1], 1)
    assert once == twice == 2  # the first population, and a generation
    assert float(other.fitness[0]) < 10


RANGES = {"order": (1, 3), "model": (0, 1)}


def candidates(count):
    """Of 5 steps on 13 fine times."""
    rng = np.random.default_rng(0)
    visited = np.zeros((count, 13), bool)
    for row in visited:
        row[[0, 12, *rng.choice(np.arange(1, 12), 4, replace=False)]] = True
    begins = visited & (np.arange(13) < 12)
    draw = lambda low, high: np.where(begins, rng.integers(low, high + 1, visited.shape), low)
    return Candidate(jnp.asarray(visited), {name: jnp.asarray(draw(*ends)) for name, ends in RANGES.items()})


def test_children_are_what_candidates_must_be():
    """Both ends and as many steps; decisions within their ranges, and none where no step begins."""
    old, other = candidates(200), jax.tree.map(lambda leaf: leaf[::-1], candidates(200))
    keys = jax.random.split(jax.random.key(0), 200)
    both = jax.jit(jax.vmap(cross))(keys, old, other)
    changed = jax.jit(jax.vmap(Partial(mutate, RANGES, 0.5, 2.0)))(keys, old)
    for child in (both, changed):
        visited = np.asarray(child.visited)
        assert (visited.sum(axis=1) == 6).all()
        assert visited[:, [0, -1]].all()
        begins = visited & (np.arange(13) < 12)
        for name, (low, high) in RANGES.items():
            values = np.asarray(child.decisions[name])
            assert ((low <= values) & (values <= high)).all()
            assert (values[~begins] == low).all()
            assert set(np.unique(values[begins])) == set(range(low, high + 1))
    a, b, c = (np.asarray(g.visited) for g in (old, other, both))
    assert (c >= (a & b)).all()  # what both visit stays
    assert (c <= (a | b)).all()
    inherited = [np.asarray(g.decisions["order"]) for g in (old, other, both)]
    assert ((inherited[2] == inherited[0]) & a | (inherited[2] == inherited[1]) & b | ~c)[:, :-1].all()
    stayed = (np.asarray(changed.visited) & a).sum() / a.sum()
    assert 0.6 < stayed < 0.95  # some moved
    calm = jax.jit(jax.vmap(Partial(mutate, RANGES, 0.0, 2.0)))(keys, old)
    jax.tree.map(np.testing.assert_array_equal, calm, old)


FINE = js.schedules.half_log_snr(VP, 7)
START = FINE[np.array([0, 2, 4, 5, 7])]


def gaussian(variance, t, x):
    alpha, sigma = VP.alpha(t), VP.sigma(t)
    return alpha * variance * x / (alpha**2 * variance + sigma**2)


def good(x, t):
    return gaussian(0.25, t, x)


def bad(x, t):
    return gaussian(0.35, t, x)


def task(seed=0, count=16):
    x = VP.prior(jax.random.key(seed), (count, 2))
    spread = lambda t: VP.alpha(t) ** 2 * 0.25 + VP.sigma(t) ** 2
    return js.learn.pairs(x, x * jnp.sqrt(spread(FINE[-1]) / spread(FINE[0])))


def test_times_and_models_within_a_budget_are_the_best_of_all():
    """Three steps on eight times, two networks, four calls' worth of money: 15 schedules and 4 of 8 choices."""
    pairs, costs = task(), (2.0, 1.0)
    found = js.learn.autodiffusion(
        jax.random.key(0), VP, [good, bad], pairs, FINE, 3, costs=costs, budget=4.0, population=20, generations=8
    )
    assert int(found.evolution.evaluations) == 180
    models = js.learn.choose([good, bad])

    @jax.jit
    @jax.vmap
    def error(nodes, which):
        sampler = js.tableau.with_extra(js.solvers.ddim(VP, FINE[nodes]), choice=which)
        return jnp.mean((js.sample(sampler, models, pairs.x) - pairs.goal) ** 2)

    schedules = [(0, *inner, 7) for inner in itertools.combinations(range(1, 7), 2)]
    affordable = [w for w in itertools.product((0, 1), repeat=3) if sum(costs[k] for k in w) <= 4]
    every = list(itertools.product(schedules, affordable))
    errors = error(*(jnp.array(part) for part in zip(*every, strict=True)))
    nodes, which = every[int(errors.argmin())]
    np.testing.assert_array_equal(found.times, FINE[jnp.array(nodes)])
    np.testing.assert_array_equal(found.sampler.rows.extra["choice"], which)
    np.testing.assert_allclose(found.fitness, errors.min(), rtol=1e-5)
    end = js.sample(found.sampler, models, pairs.x)
    np.testing.assert_allclose(jnp.mean((end - pairs.goal) ** 2), found.fitness, rtol=1e-5)


def test_decisions_of_the_unified_solver_improve_on_where_they_began():
    """The sampler found is as good as is said, and beats UniPC on the schedule that the search was given."""
    traced = []

    def model(x, t):
        traced.append(1)
        return good(x, t)

    def go(seed):
        options = {"highest": 2, "population": 16, "generations": 5, "memory": 128, "start": START}
        return js.learn.usf(jax.random.key(seed), VP, model, task(seed), FINE, 4, **options), len(traced)

    (found, once), (_, twice) = go(0), go(1)
    assert once == twice > 0
    pairs = task()
    error = lambda sampler: float(jnp.mean((js.sample(sampler, good, pairs.x) - pairs.goal) ** 2))
    np.testing.assert_allclose(error(found.sampler), found.fitness, rtol=1e-2)
    begun = js.solvers.unipc(VP, START, order=2)
    assert found.fitness < 0.2 * error(begun)
    seed = js.learn.usf(
        jax.random.key(0), VP, good, pairs, FINE, 4, highest=2, start=START, generations=0, population=4
    )
    assert any(np.isclose(seed.evolution.fitness, error(begun), rtol=1e-3))
    again = js.learn.unified(VP, found.times, **found.decisions, highest=2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), again.rows, found.sampler.rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"generations": -1}, "generations must be at least 0, got -1"),
        ({"parents": 30}, "parents must be from 1 to 20, got 30"),
        ({"crossed": 1.5}, "crossed must be at least 0 and at most 1, got 1.5"),
        ({"memory": 10}, "memory must be at least 20, got 10"),
        ({"proposals": 0}, "proposals must be at least 1, got 0"),
    ],
)
def test_bad_evolution_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        js.learn.evolve(jax.random.key(0), population(), change, mix, distance, **({"generations": 1} | options))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda *a: js.learn.usf(*a, FINE, 8), "steps must be from 1 to 7, got 8"),
        (lambda *a: js.learn.usf(*a, FINE, 3, first={"order": 4}), "first order must be from 1 to 3, got 4"),
        (lambda *a: js.learn.usf(*a, FINE, 3, first={"order": [1, 2]}), "one for each of the 3 steps, got 2"),
        (lambda *a: js.learn.usf(*a, FINE, 3, first={"odrer": 1}), "unknown decision 'odrer': did you mean order"),
        (lambda *a: js.learn.usf(*a, FINE, 3, start=FINE), r"start must be 4 times, got shape \(8,\)"),
        (lambda *a: js.learn.usf(*a, FINE, 3, rate=0.0), "rate must be above 0"),
        (lambda k, p, m, d: js.learn.autodiffusion(k, p, [m], d, FINE, 3, costs=[1.0]), "must be given together"),
        (
            lambda k, p, m, d: js.learn.autodiffusion(k, p, [m], d, FINE, 3, costs=[1.0], budget=2.0),
            "budget must allow 3 calls of the cheapest model, 3, got 2",
        ),
        (lambda k, p, m, d: js.learn.autodiffusion(k, p, [], d, FINE, 3), "models must be one or more, got none"),
    ],
)
def test_bad_searches_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(jax.random.key(0), VP, good, task())
