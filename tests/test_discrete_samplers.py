"""What every sampler of tokens must do, whatever it draws; and orders and two-stage leaps against exact laws."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxsamplers as js
from experiments import token_laws as exact
from jaxsamplers.discrete.chain import chain_posterior

D = js.discrete
MASKED, UNIFORM = D.masked(3), D.uniform(3)
KEY = jax.random.key(0)
TIMES = js.schedules.uniform(MASKED, steps=5)
SAMPLERS = {
    "ancestral": D.ancestral(MASKED, TIMES),
    "greedy": D.ancestral(UNIFORM, TIMES, final="greedy"),
    "uniform": D.ancestral(UNIFORM, TIMES),
    "tau_leaping": D.tau_leaping(UNIFORM, TIMES),
    "remasking": D.remasking(MASKED, TIMES),
    "trapezoidal": D.theta_trapezoidal(MASKED, js.schedules.uniform(MASKED, steps=3)),
    "ordered": D.ordered(MASKED, TIMES, order="entropy", length=6),
    "first_hitting": D.first_hitting(MASKED, 6),
}
every = pytest.mark.parametrize("name", SAMPLERS)


def network(x, t):
    """Not a posterior, but it looks at neighbours and at the time."""
    ahead = jnp.roll(x, -1, axis=-1)[..., None]
    late = t.reshape(*t.shape, *(1,) * (ahead.ndim - t.ndim))
    return jnp.where(ahead == jnp.arange(3), 1.5, 0.0) + late * jnp.arange(3)


@jax.jit
def draw(sampler, x, key):
    return js.run(sampler, network, x, key)


def start(sampler, batch=8, length=6):
    return sampler.process.prior(jax.random.key(1), (batch, length))


@every
def test_clean_tokens_come_out(name):
    x = draw(SAMPLERS[name], start(SAMPLERS[name], 64), KEY).x
    assert x.dtype == jnp.int32
    assert x.shape == (64, 6)
    assert set(np.unique(x)) == {0, 1, 2}


@every
def test_two_parts_equal_the_whole(name):
    sampler = SAMPLERS[name]
    whole = draw(sampler, start(sampler), KEY)
    parts = draw(sampler[3:], draw(sampler[:3], start(sampler), KEY), None)
    jax.tree.map(np.testing.assert_array_equal, (parts.x, parts.memory), (whole.x, whole.memory))
    assert int(whole.step) == js.network_calls(sampler) == len(sampler)


@every
def test_samples_do_not_depend_on_batching(name):
    sampler = SAMPLERS[name]
    keys = js.sample_keys(KEY, jnp.arange(8))
    x = start(sampler)
    whole = draw(sampler, x, keys).x
    parts = [draw(sampler, x[a:b], keys[a:b]).x for a, b in itertools.pairwise([0, 4, 8])]
    np.testing.assert_array_equal(jnp.concatenate(parts), whole)
    assert not np.array_equal(whole, draw(sampler, x, js.sample_keys(KEY, jnp.arange(8, 16))).x)


@every
def test_prompts_and_padding_stay(name):
    """Two kinds of positions that may not move: the first of every sequence, and what lies behind its end."""
    sampler = SAMPLERS[name]
    lengths = jnp.array([6, 5, 3, 1, 6, 2, 4, 6])
    place = jnp.arange(6)
    active = (place > 0) & (place < lengths[:, None])
    given = jnp.where(active, start(sampler), 2)
    x = draw(D.only(sampler, active), given, KEY).x
    np.testing.assert_array_equal(jnp.where(active, 2, x), 2)
    assert (x < 3).all()
    assert (x != 2).any()


@pytest.mark.parametrize("name", ["ancestral", "uniform", "ordered", "first_hitting"])
def test_samples_do_not_depend_on_devices(name):
    sampler, x = SAMPLERS[name], start(SAMPLERS[name], 16)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharded = jax.device_put(x, NamedSharding(mesh, P("data")))
    with jax.set_mesh(mesh):
        out = draw(sampler, sharded, KEY).x
    assert {shard.data.shape for shard in out.addressable_shards} == {(2, 6)}
    np.testing.assert_array_equal(out, draw(sampler, x, KEY).x)


def test_samplers_of_one_kind_share_a_program():
    """Other times, another law, remasking, other active positions: numbers only."""
    traces = []

    @jax.jit
    def run(sampler, x):
        traces.append(1)
        return js.sample(sampler, network, x, KEY)

    mask = jnp.full((2, 6), 3)
    for sampler in (
        D.ancestral(MASKED, TIMES),
        D.euler(MASKED, jnp.sqrt(TIMES)),
        D.remasking(MASKED, TIMES, share=0.5),
        D.ancestral(D.masked(3, D.survival.log_linear(0.01)), TIMES),
    ):
        run(sampler, mask)
    assert len(traces) == 1


@pytest.mark.parametrize("kind", ["masked", "uniform", "cosine"])
def test_laws_have_gradients_in_times(kind):
    """From the very first time to the clean end, none is NaN, and the inner ones equal finite differences."""
    process = {"masked": MASKED, "uniform": UNIFORM, "cosine": D.masked(3, D.survival.cosine())}[kind]
    x = jnp.array([[0, 1, 2], [2, 2, 0]]) if kind == "uniform" else jnp.array([[3, 1, 3], [3, 3, 3]])

    def loss(times):
        sampler = D.ancestral(process, times)
        laws = jax.vmap(lambda row: sampler.law(row, x, network(x, row.time)))(sampler.rows)
        return (laws[..., :2] ** 2).sum()

    with jax.enable_x64(True):
        times = jnp.array([1.0, 0.7, 0.2, 0.0])
        gradient = jax.jit(jax.grad(loss))(times)
        assert not jnp.isnan(gradient).any()
        value = jax.jit(loss)
        for i in (1, 2):
            shift = jnp.zeros(4).at[i].set(1e-6)
            assert float(gradient[i]) == pytest.approx(
                float(value(times + shift) - value(times - shift)) / 2e-6, rel=1e-5
            )


@pytest.mark.parametrize("order", ["left_to_right", "confidence", "margin", "entropy", (3, 0, 4, 2, 1)], ids=str)
def test_one_at_a_time_is_exact(order, x64):
    """In any order that looks at the posterior or at nothing; a fixed one stands for each that "random" may take."""
    process, model, truth, start = exact.problem("masked")
    function = order if isinstance(order, str) else lambda key, x, estimate: -jnp.argsort(jnp.array(order)) + 0.0 * x
    sampler = D.ordered(process, js.schedules.uniform(process, 5), order=function)
    law = jax.jit(lambda s: exact.one_at_a_time_law(s, model, start))(sampler)
    np.testing.assert_allclose(law, truth, atol=1e-12)


@pytest.mark.parametrize("name", ["random", "first_hitting"])
def test_one_at_a_time_as_drawn(name):
    """100,000 sequences against the data; a right sampler fails one time in 10,000 (z > 4 of chi-square)."""
    sampler = D.first_hitting(MASKED, 5) if name == "first_hitting" else D.ordered(MASKED, TIMES, length=5)
    assert name == "first_hitting" or sampler.most == 2
    noise = MASKED.prior(KEY, (100_000, 5))
    drawn = jax.jit(js.sample)(sampler, chain_posterior(exact.chain(), MASKED), noise, KEY)
    counts = np.bincount(drawn @ 4 ** jnp.arange(4, -1, -1), minlength=4**5)
    assert abs(exact.chi_square(counts, exact.data_law(exact.chain(), 4))) < 4


def test_clocks_of_first_hitting():
    """``(1 - alpha)^n`` at the first of ``n`` events is uniform, for each law; times are those of the law."""
    for law in (D.survival.log_linear(), D.survival.geometric()):
        process = D.masked(3, law)
        lengths = jnp.tile(jnp.array([6, 3]), 20_000)
        x = jnp.where(jnp.arange(6) < lengths[:, None], 3, 0)
        sampler = D.first_hitting(process, 1)
        event = jax.jit(lambda s, x: js.run(s, lambda x, t: jnp.broadcast_to(t[:, None, None], (*x.shape, 3)), x, KEY))
        state = event(sampler, x)
        drawn = -(state.memory - jnp.log(process.noisiness(1.0))) * lengths  # exponential of mean 1
        for some in (drawn[::2], drawn[1::2]):
            assert abs(float(some.mean()) - 1) < 4 / np.sqrt(20_000)
            assert abs(float((some > 1).mean()) - np.exp(-1)) < 4 * 0.48 / np.sqrt(20_000)
        time = process.time(jnp.log1p(-jnp.exp(state.memory)))
        np.testing.assert_allclose(process.noisiness(time), jnp.exp(state.memory), rtol=1e-4, atol=1e-6)


def test_orders_prefer_what_they_say():
    logits = jnp.log(jnp.array([[0.5, 0.3, 0.2], [0.5, 0.49, 0.01], [0.45, 0.28, 0.27], [0.36, 0.32, 0.32]]))
    estimate = D.categorical(logits + 7.0)
    x = jnp.full(4, 3)
    best = {name: jnp.argsort(-order(KEY, x, estimate), stable=True) for name, order in D.orders.registry.items()}
    np.testing.assert_array_equal(best["left_to_right"], [0, 1, 2, 3])
    np.testing.assert_array_equal(best["confidence"][2:], [2, 3])
    np.testing.assert_array_equal(best["margin"], [0, 2, 3, 1])
    np.testing.assert_array_equal(best["entropy"], [1, 0, 2, 3])
    np.testing.assert_allclose(D.orders.entropy(KEY, x, estimate), (jnp.exp(logits) * logits).sum(-1), rtol=1e-5)


@pytest.mark.parametrize(("leap", "gain"), [("clock", 10.0), ("reject", 2.5)])
def test_trapezoidal_beats_tau_leaping(leap, gain, x64):
    """Fifteen states with uniform rates: KL at equal network calls, 31 or so of each."""
    data = jnp.asarray(np.random.default_rng(0).dirichlet(np.ones(15)))
    process = D.uniform(15)
    model = lambda x, t: jnp.log(data) + jnp.log(process.likelihood(x, t))
    start = process.push(data, 1.0)
    leaping = D.tau_leaping(process, js.schedules.uniform(process, 31), leap=leap)
    trapezoidal = D.theta_trapezoidal(process, js.schedules.uniform(process, 16), leap=leap)
    assert len(leaping) == len(trapezoidal) == 31
    first = exact.divergence(data, jax.jit(lambda s: exact.output_law(s, model, start, length=1))(leaping))
    second = exact.divergence(data, jax.jit(lambda s: exact.two_stage_law(s, model, start, length=1))(trapezoidal))
    assert first > gain * second > 0


def test_rk2_with_theta_one_averages_rates(x64):
    """From the kept tokens, with half of each rate: a formula, on one step of tokens that the first leap left alone."""
    process, model, *_ = exact.problem("uniform")
    sampler = D.theta_rk2(process, jnp.array([0.9, 0.6, 0.0]), theta=1.0)
    first, second = (jax.tree.map(lambda leaf, k=k: leaf[k], sampler.rows) for k in (0, 1))
    x = exact.sequences(3)[::31]
    assert float(second.time) == pytest.approx(0.6)

    @jax.jit
    def both(x):
        rates = [D.from_bayes(process, "rate", model(x, t), x, t) for t in (first.time, second.time)]
        mean = 0.3 * (rates[0] + rates[1]) / 2
        leave = 1 - jnp.exp(-mean.sum(-1, keepdims=True))
        kept = (x, sampler.rates(first, x, model(x, first.time)))
        expected = leave * mean / mean.sum(-1, keepdims=True) + (1 - leave) * (mean == 0)
        return sampler.law(second, x, model(x, second.time), kept), expected

    np.testing.assert_allclose(*both(x), atol=1e-12)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: js.sample(SAMPLERS["ancestral"], network, jnp.full((2, 6), 3)), ValueError, "give it a PRNG key"),
        (
            lambda: draw(SAMPLERS["ancestral"], jnp.zeros((2, 6)), KEY),
            ValueError,
            "tokens must be integers, got float32",
        ),
        (lambda: js.sample(SAMPLERS["uniform"], network, jnp.full(6, 3), KEY), ValueError, "from 0 to 2, got 3 to 3"),
        (
            lambda: js.sample(SAMPLERS["ancestral"], lambda x, t: jnp.zeros((*x.shape, 4)), jnp.full((2, 6), 3), KEY),
            ValueError,
            r"logits over 3 clean tokens, of shape \(2, 6, 3\), but returned \(2, 6, 4\)",
        ),
        (lambda: draw(SAMPLERS["uniform"], start(SAMPLERS["uniform"]), jax.random.split(KEY, 3)), ValueError, "3 keys"),
        (lambda: D.euler(D.uniform(3, D.survival.cosine()), TIMES), ValueError, "rates must be finite"),
        (lambda: D.ordered(UNIFORM, TIMES), TypeError, "needs a masked process"),
        (lambda: D.first_hitting(UNIFORM, 3), TypeError, "needs a masked process"),
        (lambda: D.ordered(MASKED, TIMES, order="entropie"), ValueError, "did you mean entropy"),
        (lambda: D.tau_leaping(MASKED, TIMES, leap="euler"), ValueError, "known: clock, reject"),
        (lambda: D.ancestral(MASKED, TIMES[::-1]), ValueError, "strictly decreasing"),
        (lambda: D.ancestral(js.processes.edm(), TIMES), TypeError, "masked, uniform or marginal"),
        (lambda: D.only(SAMPLERS["uniform"], jnp.ones(6)), ValueError, "active must be boolean"),
        (
            lambda: js.sample(D.ancestral(D.masked(256), TIMES), network, jnp.zeros((2, 6), jnp.uint8), KEY),
            ValueError,
            "states 0 to 256, the mask among them; uint8 cannot",
        ),
        (lambda: D.denoiser(network, MASKED, "x0"), ValueError, "unknown prediction"),
        (
            lambda: D.to_bayes(UNIFORM, "score", jnp.zeros((1, 3)), jnp.zeros(1, int), TIMES[1]),
            ValueError,
            "did you mean log_score",
        ),
        (lambda: D.marginal(jnp.array([0.5, -0.1])), ValueError, "at least 0"),
        (lambda: D.survival.geometric(2.0, 1.0), ValueError, "high / low"),
    ],
)
def test_bad_input_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
