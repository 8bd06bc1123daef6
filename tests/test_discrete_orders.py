"""Orders, numbers, routing, blocks, plans and caching: against enumeration, plain loops and other samplers."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsamplers as js
from experiments import token_laws as exact

D = js.discrete
MASKED, UNIFORM = D.masked(3), D.uniform(3)
KEY = jax.random.key(0)
FOUR, SIX = (js.schedules.uniform(MASKED, steps=n) for n in (4, 6))
FREQUENCIES = jnp.array([5.0, 1.0, 2.0])
SAMPLERS = {
    "ordered": D.ordered(MASKED, SIX, order=D.orders.pc(FREQUENCIES), count=D.counts.factor(1.5), length=6),
    "rdm": D.rdm(MASKED, SIX, variant="cond", spread=0.5),
    "blocks, ordered": D.blocks(D.ordered(MASKED, js.schedules.uniform(MASKED, 2), length=2), 6, 2),
    "cached": D.cached(D.remasking(MASKED, SIX)),
    "ddpd": D.ddpd(UNIFORM, 6),
}


def network(x, t):
    """Not a posterior, but it looks at neighbours, and has an opinion on visible tokens."""
    ahead = jnp.roll(x, -1, axis=-1)[..., None]
    return jnp.where(ahead == jnp.arange(3), 1.5, 0.0) + jnp.where(x[..., None] == jnp.arange(3), 0.7, 0.0)


@jax.jit
def draw(sampler, x, key):
    planned = isinstance(sampler, D.Planned)
    return js.run(sampler, D.planned_from(UNIFORM, network) if planned else network, x, key)


@pytest.mark.parametrize("name", SAMPLERS)
def test_prompts_padding_batches_and_parts(name):
    """What may not move stays, the rest is clean; half the rows and half the batch at a time are the same samples."""
    sampler = SAMPLERS[name]
    place, lengths = jnp.arange(6), jnp.array([6, 5, 3, 1, 6, 2, 4, 6])
    active = (place > 0) & (place < lengths[:, None])
    x = jnp.where(active, sampler.process.prior(jax.random.key(1), (8, 6)), 2)
    keys = js.sample_keys(KEY, jnp.arange(8))
    whole = draw(D.only(sampler, active), x, keys).x
    np.testing.assert_array_equal(jnp.where(active, 2, whole), 2)
    assert (whole < 3).all()
    assert (whole != 2).any()
    halves = []
    for a in (0, 4):
        some = D.only(sampler, active[a : a + 4])
        begun = draw(some[:3], some.init(x[a : a + 4], keys[a : a + 4]), None)
        halves.append(draw(some[3:], begun, None).x)
    if name != "cached":  # which of the calls are left out is the batch's business
        np.testing.assert_array_equal(jnp.concatenate(halves), whole)


def small(length=3):
    """The chain of the table on fewer positions: what is known of masks depends on tokens only, so it is a table."""
    powers = 4 ** jnp.arange(length - 1, -1, -1)

    @jax.jit
    def numbers():
        source = exact.chain()
        known = D.chain.chain_posterior(source, MASKED)(exact.sequences(4, length), jnp.asarray(0.5))
        return known, exact.data_law(source, 4, length)

    known, truth = numbers()
    return lambda x, t: known[x @ powers], truth, jnp.zeros(4**length).at[-1].set(1.0)


def at_once(model):
    """The law of all positions drawn independently, from masks."""
    alone = jax.nn.softmax(model(jnp.full((1, 3), 3), 1.0))
    return exact.joint(jnp.pad(alone, [(0, 0), (0, 0), (0, 1)]))[0]


def test_orders_and_rules_against_the_data(x64):
    """One at a time is exact in PC-Sampler's order and where a rule finds nothing sure enough; all at once is one step;
    rules between are between, and the schedule's number is a floor."""
    model, truth, start = small()
    law = jax.jit(lambda s: exact.ordered_law(s, model, start, 3))
    three, soon = jnp.array([1.0, 2 / 3, 1 / 3, 0.0]), jnp.array([1.0, 0.02, 0.01, 0.0])
    make = lambda count, times=three, order="confidence": D.ordered(MASKED, times, order=order, count=count)
    np.testing.assert_allclose(law(make(None, order=D.orders.pc(FREQUENCIES))), truth, atol=1e-12)
    np.testing.assert_allclose(law(make(D.counts.threshold(1.0))), truth, atol=1e-12)
    np.testing.assert_allclose(law(make(D.counts.factor(0.0))), truth, atol=1e-12)
    all_at_once = at_once(model)
    np.testing.assert_allclose(law(make(D.counts.threshold(0.0))), all_at_once, atol=1e-12)
    np.testing.assert_allclose(law(make(D.counts.factor(10.0))), all_at_once, atol=1e-12)
    np.testing.assert_allclose(law(make(D.counts.factor(0.0), times=soon)), all_at_once, atol=1e-12)
    worst = exact.divergence(truth, all_at_once)
    for count in (D.counts.threshold(0.6), D.counts.factor(1.3)):
        assert 1e-3 < exact.divergence(truth, law(make(count))) < 0.6 * worst


def test_rules_are_those_of_loops():
    """Fast-dLLM's, position by position."""
    sure = -np.sort(-np.random.default_rng(0).uniform(0.3, 1.0, (200, 6)), axis=-1)
    sure[::3, 4:] = 0.0  # no masks there
    for bound in (0.5, 1.0, 2.0):
        wanted = [max([n for n in range(1, 7) if (n + 1) * (1 - c[n - 1]) < bound], default=0) for c in sure]
        np.testing.assert_array_equal(D.counts.factor(bound)(jnp.asarray(sure)), wanted)
        assert len(set(wanted)) > 1
    np.testing.assert_array_equal(D.counts.threshold(0.8)(jnp.asarray(sure)), (sure > 0.8).sum(-1))
    np.testing.assert_array_equal(D.counts.threshold(0.8)(jnp.array([[0.9, 0.5, 0.9], [0.5, 0.9, 0.9]])), [1, 0])


def no_opinion(key, x, estimate):
    """An order for which nothing is worth anything."""
    return jnp.full(x.shape, -jnp.inf)


def test_rules_take_one_at_least_and_masks_only():
    """Also of sequences with fewer masks than others, or none."""
    x = jnp.array([[3, 3, 3, 3], [3, 0, 3, 1], [0, 1, 2, 0], [3, 3, 3, 3]])
    active = jnp.arange(4) < jnp.array([4, 4, 4, 2])[:, None]
    for count, wanted in ((D.counts.threshold(1.0), [1, 1, 0, 1]), (D.counts.threshold(0.0), [4, 2, 0, 2])):
        sampler = D.only(D.ordered(MASKED, SIX, count=count, order=no_opinion), active)
        after = draw(sampler[:1], x, KEY).x
        np.testing.assert_array_equal((after != x).sum(-1), wanted)
        np.testing.assert_array_equal(jnp.where((x == 3) & active, 0, after), jnp.where((x == 3) & active, 0, x))


def test_pc_is_its_formula():
    logits = np.random.default_rng(1).normal(size=(2, 5, 3)) * 2
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    surprise = -np.log(np.array([5, 1, 2]) / 8 + 1e-9)[p.argmax(-1)]
    score = np.exp(-0.25 * np.arange(5)) * np.minimum(p.max(-1) * surprise, 0.9)
    order = D.orders.pc(FREQUENCIES, decay=0.25, cap=0.9)
    estimate = D.categorical(jnp.asarray(logits) + 3.0)
    np.testing.assert_allclose(jnp.exp(order(KEY, jnp.full((2, 5), 3), estimate)), score, rtol=1e-5)
    assert (p.max(-1) * surprise > 0.9).any()
    late = D.orders.pc(FREQUENCIES)(KEY, jnp.full((1, 2000), 3), D.categorical(jnp.zeros((1, 2000, 3))))
    assert len(np.unique(late)) == 2000  # where e^(-decay i) is 0


def reference_routing(x, clean, before, drawn, score, noise, count, variant):
    """RDM's rule for one sequence, position by position."""
    lowest = set(sorted(range(len(x)), key=lambda i: (score[i], i))[:count])
    out = [list(x), list(clean), list(before)]
    for i in range(len(x)):
        away = i in lowest
        if clean[i] and variant == "cond":
            away = away and drawn[i] == x[i] and score[i] < before[i]
        if away:
            out[0][i], out[1][i], out[2][i] = noise[i], False, -np.inf
        elif not clean[i]:
            out[0][i], out[1][i], out[2][i] = drawn[i], True, score[i]
    return out


@pytest.mark.parametrize("variant", ["uncond", "cond"])
def test_routing_is_that_of_loops(variant):
    """Several steps of several sequences with given draws, and some tokens that were clean become noise again."""
    random = np.random.default_rng(2)
    sampler = D.rdm(UNIFORM, SIX, variant=variant)
    decide = jax.jit(sampler.decide)
    x, clean, before = random.integers(0, 3, (9, 6)), np.zeros((9, 6), bool), np.full((9, 6), -np.inf, np.float32)
    undone = 0
    for k in range(6):
        drawn = np.where(random.random(x.shape) < 0.5, x, random.integers(0, 3, x.shape))
        noise, score = random.integers(0, 3, x.shape), np.log(random.random(x.shape)).astype(np.float32)
        row = jax.tree.map(lambda leaf, k=k: leaf[k], sampler.rows)
        given = jax.tree.map(jnp.asarray, (x, (clean, before), drawn, score, score, noise))
        found = decide(row, *given)
        wanted = [
            reference_routing(*args, 5 - k, variant) for args in zip(x, clean, before, drawn, score, noise, strict=True)
        ]
        x, now, before = (np.array([w[j] for w in wanted]) for j in range(3))
        undone += (clean & ~now).sum()
        clean = now
        jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(found), [x, clean, before.astype(np.float32)])
    assert clean.all()
    assert undone > 5


def test_routing_as_drawn():
    """Two steps of two positions: 40,000 sequences against all draws there are, weighed."""
    sampler = D.rdm(MASKED, js.schedules.uniform(MASKED, 2))
    model = lambda x: np.asarray(jax.nn.softmax(network(jnp.asarray([x]), 0.0)[0]), np.float64)
    states, law = {((3, 3), (False, False), (-np.inf, -np.inf)): 1.0}, np.zeros(9)
    for count in (1, 0):
        after: dict = {}
        for (x, clean, before), weight in states.items():
            p = model(x)
            for drawn in itertools.product(range(3), repeat=2):
                chance = np.array([p[i, v] for i, v in enumerate(drawn)])
                score = np.log(chance.astype(np.float32))
                out = reference_routing(x, clean, before, drawn, score, (3, 3), count, "uncond")
                state = tuple(tuple(part) for part in out)
                after[state] = after.get(state, 0.0) + weight * chance.prod()
        states = after
    for (x, _, _), weight in states.items():
        law[x[0] * 3 + x[1]] += weight
    drawn = draw(sampler, jnp.full((40_000, 2), 3), KEY).x
    assert abs(exact.chi_square(np.bincount(drawn @ jnp.array([3, 1]), minlength=9), law)) < 4


def test_blocks_of_one_are_autoregression(x64):
    """Exact from left to right; two positions a block, in one step each, cost less than all at once."""
    model, truth, start = small()
    law = jax.jit(lambda s: exact.output_law(s, model, start, 3))
    one = D.ancestral(MASKED, jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(law(D.blocks(one, 3, 1)), truth, atol=1e-12)
    apart = exact.divergence(truth, law(D.blocks(one, 3, 2)))
    assert 1e-3 < apart < 0.9 * exact.divergence(truth, at_once(model))


@pytest.mark.parametrize("name", ["ancestral", "ordered"])
def test_one_block_is_the_sampler(name):
    inner = {"ancestral": D.ancestral(MASKED, FOUR), "ordered": D.ordered(MASKED, FOUR, order="entropy")}[name]
    x = MASKED.prior(KEY, (16, 6))
    whole, blocks = draw(inner, x, KEY), draw(D.blocks(inner, 6, 6), x, KEY)
    jax.tree.map(np.testing.assert_array_equal, (whole.x, whole.memory), (blocks.x, blocks.memory))


def test_blocks_count_what_may_move():
    """Prompts of different lengths, and a last block that is short."""
    sampler = D.blocks(D.ancestral(MASKED, js.schedules.uniform(MASKED, 1)), 5, 2)
    active = jnp.array([[True] * 6, [False, False, True, True, True, False]])
    x = jnp.where(active, 3, 1)
    _, seen = js.run(D.only(sampler, active), network, x, KEY, record=lambda state: state.x < 3)
    np.testing.assert_array_equal(seen[:, 0], jnp.arange(6) < jnp.array([2, 4, 6])[:, None])
    np.testing.assert_array_equal(seen[:, 1], ~active[1] | (jnp.arange(6) < jnp.array([4, 6, 6])[:, None]))
    two = D.ordered(MASKED, js.schedules.uniform(MASKED, 2))  # which remembers how many masks its block had
    _, seen = js.run(D.blocks(two, 6, 2), network, x[:1], KEY, record=lambda state: state.x < 3)
    np.testing.assert_array_equal(seen[:, 0].sum(-1), [1, 2, 3, 4, 5, 6])


def test_cached_calls_are_left_out():
    """The network counts on the host how often it really ran; samples are those without a cache."""
    runs = []

    def counted(x, t):
        def on_host(logits):
            runs.append(1)
            return np.asarray(logits)

        logits = network(x, t)
        return jax.pure_callback(on_host, jax.ShapeDtypeStruct(logits.shape, logits.dtype), logits)

    x = jnp.full((2, 6), 3)
    record = lambda state: state.x
    for sampler in (D.ancestral(MASKED, js.schedules.uniform(MASKED, 60)), D.ordered(MASKED, SIX)):
        plain, path = jax.jit(lambda s: js.run(s, network, x, KEY, record=record))(sampler)
        changes = (np.diff(np.concatenate([x[None], path]), axis=0) != 0).any((1, 2))
        runs.clear()
        state = jax.block_until_ready(jax.jit(lambda s: js.run(D.cached(s), counted, x, KEY))(sampler))
        np.testing.assert_array_equal(state.x, plain.x)
        assert len(runs) == int(state.memory.calls) == 1 + changes[:-1].sum()
    assert len(runs) == 6  # one at a time has nothing to leave out


def test_the_first_call_is_never_left_out():
    """Whatever number the mask has: the largest of an unsigned byte, too."""
    process = D.masked(255)
    x = jnp.full((2, 6), 255, jnp.uint8)
    sure = lambda x, t: jnp.broadcast_to(jnp.where(jnp.arange(255) == 9, 90.0, 0.0), (*x.shape, 255))
    drawn = jax.jit(lambda s, x: js.run(s, sure, x, KEY))(D.cached(D.ancestral(process, FOUR)), x)
    np.testing.assert_array_equal(drawn.x, 9)
    assert int(drawn.memory.calls) > 0


def test_cached_calls_are_as_many_as_expected():
    """The docstring's formula, on 40 batches, and a rule that is done early: two calls and no more."""
    n, sequences, masks = 40, 3, 5
    sampler = D.cached(D.ancestral(MASKED, js.schedules.uniform(MASKED, n)))
    calls = jax.jit(lambda key: js.run(sampler, network, jnp.full((sequences, masks), 3), key).memory.calls)
    counts = [int(calls(jax.random.key(i))) for i in range(40)]
    wanted = 1 + (n - 1) * (1 - (1 - 1 / n) ** (sequences * masks))
    assert abs(np.mean(counts) - wanted) < 4 * 1.8 / np.sqrt(40)
    early = D.cached(D.ordered(MASKED, SIX, count=D.counts.threshold(0.0)))
    assert int(draw(early, jnp.full((4, 6), 3), KEY).memory.calls) == 2


def test_plans_are_the_reversed_process(x64):
    """All clean tokens times all sets of noisy positions, enumerated: what planner and denoiser are; that their rates
    carry the law of x_t back in time; and that one network knows both, and an event is drawn by them."""
    process, sampler, x, t = UNIFORM, D.ddpd(UNIFORM, 4), exact.sequences(3, 3), jnp.asarray(0.6)

    @jax.jit
    def ours(t):
        source = exact.chain()
        truth = exact.data_law(source, 3, 3)
        plan = D.planned_from(process, D.chain.chain_posterior(source, process))(x, jnp.full(27, t))
        chance, logits = sampler.chances(x, plan)
        now, change = jax.jvp(lambda s: exact.noised(process, truth, s, 3), (t,), (jnp.ones_like(t),))
        return truth, now, change, chance, jax.nn.softmax(logits), process.survival(t), process.decay(t)

    truth, now, change, chance, drawn, alpha, decay = (np.asarray(leaf) for leaf in ours(t))
    noisy = np.array(list(itertools.product([False, True], repeat=3)))
    same = np.asarray(x)[None, :, :] == np.asarray(x)[:, None, :]  # [x_t, x_0, i]
    each = np.where(noisy[None, None], (1 - alpha) / 3, alpha * same[:, :, None])  # [x_t, x_0, z, i]
    weight = np.asarray(truth)[None, :, None] * each.prod(-1)
    law = weight.sum((1, 2))
    planner = np.einsum("xcz,zi->xi", weight, noisy) / law[:, None]
    clean = np.eye(3)[np.asarray(x)]  # [x_0, i, v]
    denoiser = np.einsum("xcz,zi,civ->xiv", weight, noisy, clean) / (planner * law[:, None])[..., None]

    speed = decay / (1 - alpha)
    rates = np.zeros((27, 27))
    for i, v in itertools.product(range(3), repeat=2):
        to = (np.asarray(x) + (v - np.asarray(x)[:, [i]]) * np.eye(3, dtype=int)[i]) @ [9, 3, 1]
        np.add.at(rates, (np.arange(27), to), speed * planner[:, i] * denoiser[:, i, v])
    np.testing.assert_allclose(law, now, atol=1e-12)
    np.testing.assert_allclose(law @ rates - law * rates.sum(1), -change, atol=1e-12)

    np.testing.assert_allclose(chance, planner, atol=1e-12)
    np.testing.assert_allclose(drawn, denoiser, atol=1e-12)

    given = D.planned(
        lambda x, t: jnp.log(planner / (1 - planner))[x @ jnp.array([9, 3, 1])],
        lambda x, t: jnp.log(denoiser)[x @ jnp.array([9, 3, 1])],
    )
    here = 11
    after = jax.jit(lambda s, x: js.sample(s, given, x, KEY))(sampler[:1], jnp.tile(x[here], (40_000, 1)))
    counts = np.bincount(after @ jnp.array([9, 3, 1]), minlength=27)
    assert abs(exact.chi_square(counts, rates[here] / rates[here].sum())) < 4


def test_plans_tell_the_time():
    """As many noisy positions as the planner saw, but the one that is drawn; none of prompts."""
    sampler = D.only(D.ddpd(UNIFORM, 1), jnp.arange(6) > 1)
    odds = jnp.array([[9.0, 9.0, 9.0, 9.0, -9.0, 0.0], [-9.0] * 6])
    model = D.planned(lambda x, t: odds, network)
    state = js.run(sampler, model, jnp.zeros((2, 6), jnp.int32), KEY)
    np.testing.assert_allclose(UNIFORM.noisiness(state.memory), [1.5 / 4, 0.5 / 4], rtol=1e-3)


def test_remdm_confidence_as_drawn(x64):
    """Two positions and all that can be remembered of them, enumerated: 40,000 sequences against the law."""
    model, truth, _ = small(2)
    sampler = D.remdm_confidence(MASKED, js.schedules.uniform(MASKED, 6))
    law = jax.jit(lambda s: exact.confidence_law(s, model))(sampler)
    assert float(law.sum()) == pytest.approx(1.0, abs=1e-12)
    drawn = jax.jit(lambda s, x: js.sample(s, model, x, KEY))(sampler, jnp.full((40_000, 2), 3))
    assert abs(exact.chi_square(np.bincount(drawn @ jnp.array([4, 1]), minlength=16), law)) < 4
    assert 1e-4 < exact.divergence(truth, law) < 0.1


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: D.counts.threshold(1.5), ValueError, "least must be at least 0"),
        (lambda: D.counts.factor(-1.0), ValueError, "bound must be at least 0"),
        (lambda: D.orders.pc(jnp.array([1.0, -1.0])), ValueError, "frequencies must be at least 0"),
        (lambda: D.orders.pc(FREQUENCIES, decay=-1.0), ValueError, "decay must be at least 0"),
        (lambda: D.rdm(MASKED, SIX, variant="condition"), ValueError, "did you mean"),
        (lambda: D.rdm(MASKED, SIX, spread=-1.0), ValueError, "spread must be at least 0"),
        (lambda: D.blocks(D.ancestral(MASKED, SIX), 6, 0), ValueError, "size must be at least 1"),
        (lambda: D.cached(D.ancestral(UNIFORM, SIX)), TypeError, "changes with time"),
        (lambda: D.ddpd(MASKED, 3), TypeError, "of masks it is known which are noise"),
        (lambda: D.ddpd(UNIFORM, 0), ValueError, "events must be at least 1"),
        (lambda: js.sample(D.ddpd(UNIFORM, 3), network, jnp.zeros((2, 6), int), KEY), TypeError, "returns a Plan"),
    ],
)
def test_bad_input_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
