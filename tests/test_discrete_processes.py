"""Survival laws in float32, draws from large vocabularies, and processes given by matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsamplers as js
from experiments.token_laws import chi_square

D = js.discrete
KEY = jax.random.key(0)
LAWS = {
    "log_linear": (D.survival.log_linear(), lambda t: 1 - t),
    "rest": (D.survival.log_linear(1e-3), lambda t: 1 - 0.999 * t),
    "cosine": (D.survival.cosine(), lambda t: np.cos(np.pi / 2 * t)),
    "cosine-2": (D.survival.cosine(2.0), lambda t: np.cos(np.pi / 2 * t) ** 2),
    "sine": (D.survival.sine(), lambda t: 1 - np.sin(np.pi / 2 * t)),
    "geometric": (D.survival.geometric(), lambda t: np.exp(-(1e-3 ** (1 - t)) * 20.0**t)),
    "polynomial": (D.survival.polynomial(3.0), lambda t: 1 - t**3),
    "convex": (D.survival.convex(2.0), lambda t: (1 - t) ** 2),
    "convex-1": (D.survival.convex(1.0), lambda t: 1 - t),
}
TIMES = np.array([1e-6, 1e-3, 0.1, 0.3, 0.4999, 0.5, 0.7, 0.99, 0.9990234375])
first = lambda sampler: jax.tree.map(lambda leaf: leaf[0], sampler.rows)


@pytest.mark.parametrize("name", LAWS)
def test_survival_laws_keep_float32(name):
    """Formulas in long double; ``1 - alpha`` and the loss within a short step keep relative precision at both ends."""
    law, formula = LAWS[name]
    process = D.masked(3, law)
    assert float(process.survival(0.0)) == pytest.approx(1, abs=2e-7)
    t32 = jnp.asarray(TIMES, jnp.float32)
    t = np.asarray(t32, np.longdouble)
    exact = formula(t)
    np.testing.assert_allclose(process.survival(t32), exact, rtol=2e-5)
    noise = np.where(t < 1e-2, -np.expm1(np.log1p(-(1 - exact))), 1 - exact)
    np.testing.assert_allclose(process.noisiness(t32), noise, rtol=2e-6, atol=1e-12)
    s32 = t32 * (1 - 2.0**-10)
    lost = 1 - exact / formula(np.asarray(s32, np.longdouble))
    np.testing.assert_allclose(process.noisiness(t32, s32), lost, rtol=2e-3, atol=2e-10)
    np.testing.assert_allclose(process.time(process.log_survival(t32)), t32, rtol=2e-5, atol=3e-6)


@pytest.mark.parametrize("name", LAWS)
def test_survival_laws_have_derivatives(name):
    """Against finite differences inside, finite at both ends."""
    process = D.masked(3, LAWS[name][0])
    with jax.enable_x64(True):
        t = jnp.array([0.2, 0.6])
        difference = (process.survival(t - 1e-6) - process.survival(t + 1e-6)) / 2e-6
        np.testing.assert_allclose(process.decay(t), difference, rtol=1e-6)
    for f in (process.noisiness, process.log_survival, process.survival, process.decay):
        for end in (0.0, 1.0):
            assert not np.isnan(jax.grad(f)(end))


def test_draws_from_a_large_vocabulary():
    """Zipf over 1,000 tokens, two levels, with a token left out; z of chi-square below 4 (one in 10,000)."""
    law = 1 / np.arange(1, 1001)
    logits = jnp.asarray(np.log(law), jnp.float32)[np.random.default_rng(0).permutation(1000)]
    tokens = D.categorical(logits + 40.0)
    draw = jax.jit(lambda tokens, key: tokens.draw(*jax.random.bits(key, (2, 100_000))))
    exact = np.asarray(jax.nn.softmax(logits), np.float64)
    assert abs(chi_square(np.bincount(draw(tokens, KEY), minlength=1000), exact / exact.sum())) < 4
    best = int(np.argmax(exact))
    exact[best] = 0
    others = tokens.without(jnp.full(100_000, best))
    assert abs(chi_square(np.bincount(draw(others, KEY), minlength=1000), exact / exact.sum())) < 4
    np.testing.assert_allclose(others.total[0] / tokens.total, exact.sum(), rtol=1e-5)


def test_rare_events_happen_as_often_as_they_should():
    """Probability 1e-7 needs more than the 2^-23 of a float32 uniform number, with which it would be 1.2e-7."""
    happens = D.randomness.happens
    words = jnp.arange(2**12, dtype=jnp.uint32)
    assert int(happens(words, jnp.float32(1e-7)).sum()) == int(np.float32(1e-7) * 2.0**32)
    assert bool(happens(jnp.uint32(2**32 - 1), jnp.float32(1.0)))
    assert not bool(happens(jnp.uint32(0), jnp.float32(0.0)))
    waits = -D.randomness.log_unit(jnp.array([0, 2**32 - 128, 2**32 - 1], jnp.uint32))
    assert ((waits > 0) & jnp.isfinite(waits)).all()  # nobody waits for no time at all


def test_draws_with_impossible_tokens():
    logits = jnp.full((4, 700), -jnp.inf).at[0, 699].set(0).at[1, 0].set(-80.0).at[2, 300].set(3.0).at[2, 301].set(3.0)
    words = jnp.array([0, 1, 2**31, 2**32 - 1], jnp.uint32)
    for word in words:
        drawn = D.categorical(logits).draw(jnp.full(4, word), jnp.full(4, word))
        assert int(drawn[0]) == 699
        assert int(drawn[1]) == 0
        assert int(drawn[2]) in (300, 301)
        assert 0 <= int(drawn[3]) < 700  # nothing is possible: anything, but no NaN


@pytest.mark.parametrize("kind", ["masked", "uniform", "marginal"])
def test_forward_draws(kind):
    """One draw of 300,000 tokens at two times; z of chi-square below 4."""
    process = {"masked": D.masked(3), "uniform": D.uniform(3)}.get(kind, D.marginal(jnp.array([0.5, 0.3, 0.2])))
    x0 = jnp.ones((2, 300_000), jnp.int32)
    x = process.forward(KEY, x0, jnp.array([0.2, 0.9]))
    clean = jnp.eye(process.states)[1]
    for drawn, t in zip(x, (0.2, 0.9), strict=True):
        assert abs(chi_square(np.bincount(drawn, minlength=process.states), process.push(clean, t))) < 4
    keys = js.sample_keys(KEY, jnp.arange(2))
    np.testing.assert_array_equal(
        process.forward(keys[1:], x0[1:], jnp.array([0.9]))[0], process.forward(keys, x0, jnp.array([0.2, 0.9]))[1]
    )


def test_matrices_that_replace_are_the_process_that_replaces(x64):
    """D3PM's uniform and absorbing tables at their knots, skipping steps too."""
    betas = np.array([0.1, 0.2, 0.15, 0.3, 0.4])
    alphas = np.append(1.0, np.cumprod(1 - betas))
    logits = jax.random.normal(KEY, (4, 4))
    x = jnp.arange(4)
    for table, process, width in [
        (D.uniform_steps(4, betas), D.uniform(4), 4),
        (D.absorbing_steps(4, betas, mask=3), D.masked(4, mask=3), 4),
    ]:
        general = D.transition_matrices(table)
        for i, j in [(5, 4), (4, 1), (3, 0)]:
            times = process.time(jnp.log(jnp.array([alphas[i], alphas[j]])))
            steps = D.d3pm(general, jnp.array([i, j]) / 5, prediction="bayes")
            seen = process.clean(logits, x)
            if process.noise.absorbing:  # a visible token is known
                seen = jnp.where((x[:, None] == x) | (x[:, None] == 3), seen, -jnp.inf)
            law = D.ancestral(process, times)
            np.testing.assert_allclose(
                steps.law(first(steps), x, seen), law.law(first(law), x, seen)[:, :width], atol=1e-7
            )


@pytest.mark.parametrize(
    "table",
    [
        D.gaussian_steps(7, np.linspace(0.02, 0.3, 8)),
        D.neighbour_steps(np.random.default_rng(0).normal(size=(7, 2)), np.linspace(0.1, 1.5, 8), neighbours=2),
    ],
    ids=["gaussian", "neighbour"],
)
def test_general_matrices(table, x64):
    """Doubly stochastic; exact for one token, any steps skipped; equal to the authors' joint form on its network."""
    np.testing.assert_allclose(table.sum(-1), 1, atol=1e-12)
    np.testing.assert_allclose(table.sum(-2), 1, atol=1e-12)
    assert (table >= 0).all()
    assert table[0, 0, 0] > table[0, 0, 1:].max()
    process, x = D.transition_matrices(table), jnp.arange(7)
    data = jnp.asarray(np.random.default_rng(1).dirichlet(np.ones(7)))
    for i, j in [(8, 7), (8, 3), (5, 0)]:
        sampler = D.d3pm(process, jnp.array([i, j]) / 8)
        law = sampler.law(first(sampler), x, jnp.log(jnp.broadcast_to(data, (7, 7))))
        np.testing.assert_allclose(process.push(data, i / 8) @ law, process.push(data, j / 8), atol=1e-12)
        forward = np.linalg.multi_dot([np.eye(7), *table[j:i], np.eye(7)])  # q(x_t | x_s)
        joint = forward.T * np.asarray(process.push(data, j / 8))
        np.testing.assert_allclose(law, joint / joint.sum(-1, keepdims=True), atol=1e-10)


def test_d3pm_draws_what_it_computes():
    """Twenty steps of a Gaussian table on one token return the data's law; z of chi-square below 4."""
    process = D.transition_matrices(D.gaussian_steps(9, np.linspace(0.05, 0.6, 20)))
    data = jnp.asarray(np.random.default_rng(1).dirichlet(np.ones(9)), jnp.float32)
    start = process.forward(KEY, jax.random.choice(KEY, 9, (200_000, 1), p=data), 1.0)
    sampler = D.d3pm(process, js.schedules.uniform(process, 10))
    network = lambda x, t: jnp.broadcast_to(jnp.log(data), (*x.shape, 9))
    drawn = jax.jit(lambda s, x: js.sample(s, network, x, jax.random.key(3)))(sampler, start)
    assert abs(chi_square(np.bincount(drawn[:, 0], minlength=9), data / data.sum())) < 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: D.transition_matrices(np.ones((2, 3, 3))), "the sums of steps' rows must be"),
        (lambda: D.transition_matrices(np.ones((3, 3))), r"shape \[n, vocab, vocab\]"),
        (lambda: D.gaussian_steps(5, np.array([0.0])), "betas must be above 0"),
        (lambda: D.neighbour_steps(np.zeros((4, 2)), np.ones(2), neighbours=4), "neighbours must be from 1 to 3"),
        (lambda: D.absorbing_steps(4, np.array([0.1]), mask=4), "mask must be from 0 to 3"),
        (
            lambda: D.d3pm(D.transition_matrices(np.eye(3)[None]), jnp.array([1.0, 0.0]), prediction="x0"),
            "unknown pred",
        ),
    ],
)
def test_bad_matrices_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
