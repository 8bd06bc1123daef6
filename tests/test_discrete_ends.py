"""States and times at the ends: all masks, none, ties, temperature 0, the first row and the last, for every sampler."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import jaxsamplers as js
from jaxsamplers.discrete.two_stage import TwoStage

D = js.discrete
LENGTH, VOCAB = 6, 3
KEY = jax.random.key(0)
BEST = np.array([0, 1, 2, 2, 1, 0])
GIVEN = np.array([2, 0, 1, 0, 2, 1])  # nowhere the likeliest
STEPS = np.linspace(1, 0, 5, dtype=np.float32)
MADE = {"masked": D.masked, "uniform": D.uniform}
OPTIONS = {"remdm_loop": {"at": 2, "loops": 2}, "glauber": {"time": 0.5, "scan": "cyclic"}}
OTHERS = {"ddpd": 40, "first_hitting": LENGTH, "glauber": LENGTH, "k_gillespie": (3, 2, 1)}  # instead of times
OF_MASKS = {"ordered", "k_gillespie", "first_hitting", *(name for name in D.registry if name.startswith("remdm"))}
DRAWN_AGAIN = {"remasking", "rdm", "predictor_corrector", "glauber", "glauber_generative"}
CASES = [(kind, name) for name in D.registry for kind in MADE if kind == "masked" or name not in OF_MASKS]
CASES = [case for case in CASES if case not in {("uniform", "glauber"), ("masked", "d3pm"), ("masked", "ddpd")}]


def build(process, name):
    if name == "d3pm":
        return D.d3pm(D.transition_matrices(D.uniform_steps(VOCAB, np.full(4, 0.5))), STEPS)
    extra = (LENGTH,) if name == "glauber_generative" else ()
    return D.registry[name](process, OTHERS.get(name, STEPS), *extra, **OPTIONS.get(name, {}))


def opinions(x, t):
    """The same whatever is seen, another best token at each position."""
    return jnp.broadcast_to(jax.nn.one_hot(BEST, VOCAB), (*x.shape, VOCAB))


@jax.jit
def draw(sampler, x, temperature):
    model = D.truncated(opinions, Partial(D.truncation.temperature, value=temperature))
    planned = isinstance(sampler, D.Planned)
    return js.sample(sampler, D.planned_from(sampler.process, model) if planned else model, x, KEY)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_all_masked_none_masked_and_temperature_zero(kind, name):
    """In one batch. At temperature 0 the likeliest are drawn, and at any the visible stay if none is masked again."""
    sampler = build(MADE[kind](VOCAB), name)
    noise = VOCAB if kind == "masked" else 1
    x = np.stack([np.full(LENGTH, noise), GIVEN, np.where(np.arange(LENGTH) % 2 == 0, noise, GIVEN)])
    cold, warm = (np.asarray(draw(sampler, x, np.float32(value))) for value in (0, 1))
    best = np.broadcast_to(BEST, x.shape)
    assert (warm < VOCAB).all()
    if kind == "uniform":
        np.testing.assert_array_equal(cold, best)
        return
    hidden = x == noise
    np.testing.assert_array_equal(cold[hidden], best[hidden])
    assert ((cold == x) | (cold == best)).all()
    assert (warm[hidden] != best[hidden]).any()
    if name not in DRAWN_AGAIN and not name.startswith("remdm"):
        for drawn in (cold, warm):
            np.testing.assert_array_equal(drawn[~hidden], x[~hidden])


LAWS = {
    "cosine": D.survival.cosine(),
    "geometric": D.survival.geometric(),
}  # nothing survives the first, some the other
RATES = {"euler", "tau_leaping", "theta_trapezoidal", "theta_rk2"}  # infinite for uniform noise where nothing survives
TABLES = [
    n for n in D.registry if n not in {*OTHERS, "ordered", "rdm", "remdm_confidence", "d3pm", "glauber_generative"}
]


@jax.jit
def ends(sampler, x, logits):
    """The law of each row, float32."""
    kept = ((x, jnp.zeros(logits.shape)),) if isinstance(sampler, TwoStage) else ()
    return jax.vmap(lambda row: sampler.law(row, x, logits, *kept))(sampler.rows)


@pytest.mark.parametrize("kind", MADE)
def test_laws_of_the_first_row_and_the_last(kind):
    """They are laws, of all masks and none, sure or not; the last is the network's own at every noisy position."""
    x = np.stack([np.full(LENGTH, VOCAB if kind == "masked" else 1), GIVEN])
    sure = np.where(np.eye(VOCAB)[BEST] == 1, 0.0, -np.inf)
    logits = np.stack([np.broadcast_to([0.0, 1.0, -2.0], sure.shape), sure])[:, None].repeat(2, axis=1)
    own = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    if kind == "masked":
        own = np.pad(own, [(0, 0)] * 3 + [(0, 1)])
        own[:, 1] = np.eye(VOCAB + 1)[GIVEN]  # what is visible stays
    checked = 0
    for name in TABLES:
        for law, survival in LAWS.items():
            if kind == "uniform" and (name in OF_MASKS or (name in RATES and law == "cosine")):
                continue
            sampler = build(MADE[kind](VOCAB, survival), name)
            rows = jax.tree.map(lambda leaf: np.asarray(leaf)[[0, -1]], sampler.rows)
            outer = dataclasses.replace(sampler, rows=rows)
            first, last = np.asarray(ends(outer, x[None].repeat(2, axis=0), logits.astype(np.float32)))
            for found in (first, last):
                assert (found > -1e-6).all(), (name, law)
                np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5, err_msg=f"{name}, {law}")
            np.testing.assert_allclose(last, own, atol=1e-5, err_msg=f"{name}, {law}")
            checked += 1
    assert checked == {"masked": 28, "uniform": 18}[kind]


@pytest.mark.parametrize("law", LAWS)
def test_scores_that_say_nothing_are_no_news(law):
    """Where nothing survives, or less than float32 can see, scores are 1 but for rounding: any clean token alike."""
    process = D.uniform(5, LAWS[law])
    rounding = 1e-7 * jnp.array([0.0, 1.0, -1.0, 0.5, -0.5])
    network = D.denoiser(lambda x, t: jnp.broadcast_to(rounding, (*x.shape, 5)), process, "log_score")
    sampler = D.ancestral(process, np.array([1.0, 0.5, 0.0], np.float32))
    row, x = jax.tree.map(lambda leaf: leaf[0], sampler.rows), np.array([[0, 4]])
    np.testing.assert_allclose(jax.jit(sampler.law)(row, x, network(x, row.time)), 0.2, atol=1e-5)


def test_tokens_that_noise_never_makes():
    """Given where nothing survives, they cannot be: the network is believed, and no number is NaN."""
    process = D.marginal(np.array([0.5, 0.5, 0.0]), D.survival.sine())
    assert process.rate(1.0) == np.inf
    sampler = D.ancestral(process, np.array([1.0, 0.5, 0.0], np.float32))
    row, logits = jax.tree.map(lambda leaf: leaf[0], sampler.rows), np.log([[0.2, 0.7, 0.1]] * 2, dtype=np.float32)
    rare, usual = np.asarray(jax.jit(sampler.law)(row, np.array([2, 0]), logits))
    np.testing.assert_allclose(rare.sum(), 1, atol=1e-6)
    np.testing.assert_allclose(rare[:2], usual[:2], atol=0.1)


@pytest.mark.parametrize("order", ["confidence", "margin", "entropy"])
def test_of_equal_masks_the_leftmost_come_first(order):
    """Whether all are equal or two of them, and whatever is visible between them."""
    sampler = D.ordered(D.masked(VOCAB), np.linspace(1, 0, 4, dtype=np.float32), order=order)
    x = np.array([[3, 3, 3, 3, 3, 3], [3, 0, 3, 1, 2, 3]])
    same = jax.jit(
        lambda x: js.run(sampler, lambda x, t: jnp.zeros((*x.shape, VOCAB)), x, KEY, record=lambda s: s.x)[1]
    )
    path = np.asarray(same(x)) < VOCAB
    np.testing.assert_array_equal(path[:, 0], np.arange(6) < np.array([2, 4, 6])[:, None])
    np.testing.assert_array_equal(path[:, 1][:, [0, 2, 5]], np.arange(3) < np.array([1, 2, 3])[:, None])


def test_equally_sure_tokens_are_masked_alike():
    """ReMDM-conf shares its one mask among them; RDM routing masks the first of them."""
    sampler = D.remdm_confidence(D.masked(VOCAB), STEPS)
    row = jax.tree.map(lambda leaf: leaf[2], sampler.rows)
    x = np.array([[0, 1, 3, 2, 3, 1], [3] * 6])
    again = jax.jit(sampler.refresh)(row, x, jnp.full(x.shape, 0.4))
    np.testing.assert_allclose(again[0], np.where(x[0] < 3, row.most / 4, 0), rtol=1e-6)
    np.testing.assert_array_equal(again[1], 0)
    routing = D.rdm(D.masked(VOCAB), np.linspace(1, 0, 4, dtype=np.float32))
    path = jax.jit(
        lambda x: js.run(routing, lambda x, t: jnp.zeros((*x.shape, VOCAB)), x, KEY, record=lambda s: s.x)[1]
    )
    left = np.asarray(path(x[1:])) == VOCAB
    np.testing.assert_array_equal(left[:, 0], np.arange(6) < np.array([4, 2, 0])[:, None])


@pytest.mark.parametrize("name", [name for name in D.registry if name not in {*OTHERS, "d3pm"}])
def test_other_numbers_are_the_same_program(name):
    """Compilers are shown shapes and structure, and those do not tell times or laws of one kind apart."""
    process, other = (D.masked(VOCAB, D.survival.log_linear(rest)) for rest in (1e-3, 1e-2))
    extra = (LENGTH,) if name == "glauber_generative" else ()
    one, two = (
        D.registry[name](p, times, *extra, **OPTIONS.get(name, {}))
        for p, times in ((process, STEPS), (other, STEPS**2))
    )
    shapes = lambda sampler: [
        (leaf.shape, leaf.dtype, leaf.weak_type) for leaf in map(jax.typeof, jax.tree.leaves(sampler))
    ]
    assert jax.tree.structure(one) == jax.tree.structure(two)
    assert shapes(one) == shapes(two)
    assert any(
        not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one.rows), jax.tree.leaves(two.rows), strict=True)
    )


@pytest.mark.parametrize(
    "name", ["tau_leaping", "theta_trapezoidal", "flow_euler", "predictor_corrector", "remdm_rescale"]
)
def test_laws_have_gradients_in_schedules(name, x64):
    """From nothing but masks on to the clean end, against finite differences."""
    process = D.masked(VOCAB)
    x = jnp.array([[3, 1, 3, 3, 0, 2]])

    def loss(inner):
        sampler = D.registry[name](process, jnp.concatenate([jnp.ones(1), inner, jnp.zeros(1)]))
        kept = ((x, jnp.zeros((*x.shape, VOCAB))),) if isinstance(sampler, TwoStage) else ()
        law = lambda row: sampler.law(row, x, opinions(x, row.time) * (1 + row.time), *kept)
        return (jax.vmap(law)(sampler.rows)[..., :2] ** 2).sum()

    @jax.jit
    def slopes(inner):
        shifts = 1e-6 * jnp.stack([jnp.eye(2), -jnp.eye(2)])
        above, below = jax.lax.map(jax.vmap(loss), inner + shifts)
        return jax.grad(loss)(inner), (above - below) / 2e-6

    gradient, differences = slopes(jnp.array([0.7, 0.25]))
    np.testing.assert_allclose(gradient, differences, rtol=1e-5)
    assert (np.abs(gradient) > 1e-3).all()
