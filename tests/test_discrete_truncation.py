"""Rules that ban tokens, against the sets they are defined by."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import jaxsamplers as js

T = js.discrete.truncation
LOGITS = 3 * np.random.default_rng(0).normal(size=(4, 5, 13)).astype(np.float32)
LOGITS[0, 0] = 0.0  # all alike
LOGITS[0, 1, 3:] = -np.inf
LOGITS[0, 2, 1:] = -np.inf


def softmax(row):
    weights = np.exp(row.astype(np.float64) - row.max())
    return weights / weights.sum()


def smallest(q, order, p):
    """Tokens in this order until they have ``p``."""
    kept = []
    for token in order:
        if sum(q[kept]) >= p - 1e-7 or q[token] == 0:
            break
        kept.append(token)
    return kept


def surprise(q):
    with np.errstate(divide="ignore"):
        each = -np.log(q)
    return each, sum(a * b for a, b in zip(q, each, strict=True) if a > 0)


def by_hand(name, row, number):
    """The set that a rule keeps, from its definition."""
    q = softmax(row)
    each, mean = surprise(q)
    if name == "top_k":
        kept = [i for i in range(len(q)) if (row > row[i]).sum() < number]
    elif name == "top_p":
        kept = smallest(q, np.argsort(-q, kind="stable"), number)
    elif name == "typical":
        kept = smallest(q, np.argsort(np.abs(each - mean), kind="stable"), number)
    elif name == "min_p":
        kept = [i for i in range(len(q)) if q[i] >= number * q.max() * (1 - 1e-6)]
    else:
        bound = number if name == "epsilon" else min(number, np.sqrt(number) * np.exp(-mean))
        kept = [i for i in range(len(q)) if q[i] >= bound]
    return set(kept) | {i for i in range(len(q)) if row[i] == row.max()}


CASES = {
    "top_k": (1, 3, 20),
    "top_p": (0.0, 0.5, 0.9),
    "min_p": (0.05, 0.5),
    "typical": (0.3, 0.9),
    "epsilon": (0.01, 0.2),
    "eta": (0.01, 0.3),
}


@pytest.mark.parametrize(("name", "number"), [(name, number) for name in CASES for number in CASES[name]])
def test_what_is_kept_is_the_set_of_the_definition(name, number):
    rule = T.registry[name]
    found = np.asarray(jax.jit(lambda logits: rule(logits, number))(LOGITS))
    kept = np.isfinite(found)
    np.testing.assert_array_equal(found[kept], LOGITS[kept])
    for place in np.ndindex(4, 5):
        wanted = by_hand(name, LOGITS[place], number)
        if place == (0, 0):  # of equally likely tokens all stay or none
            assert kept[place].all() or not kept[place].any()
            continue
        assert set(np.flatnonzero(kept[place])) == wanted & set(np.flatnonzero(np.isfinite(LOGITS[place]))), place


@pytest.mark.parametrize(("name", "number"), [("top_k", 13), ("top_p", 1.0), ("min_p", 0.0), ("epsilon", 0.0)])
def test_the_loosest_rule_bans_nothing(name, number):
    np.testing.assert_array_equal(T.registry[name](LOGITS, number), LOGITS)


def test_temperatures():
    """Zero is the likeliest alone; each row may have its own, and gradients reach it."""
    warm = T.temperature(jnp.asarray(LOGITS[1]), jnp.array([1.0, 2.0, 0.5, 0.0, 1e-3]))
    np.testing.assert_array_equal(warm[0], LOGITS[1, 0])
    np.testing.assert_allclose(warm[1], LOGITS[1, 1] / 2, rtol=1e-6)
    assert np.isfinite(warm[3]).sum() == 1
    assert jnp.argmax(warm[3]) == np.argmax(LOGITS[1, 3])
    slope = jax.grad(lambda value: T.temperature(jnp.asarray(LOGITS[1]), value).sum())(2.0)
    np.testing.assert_allclose(slope, -LOGITS[1].sum() / 4, rtol=1e-4)


def test_a_condition_that_matters_cools():
    other = LOGITS[1][::-1]
    q, r = jax.nn.softmax(LOGITS[1]), jax.nn.softmax(other)
    apart = (q * jnp.log(q / r)).sum(-1)
    found = T.kl_temperature(jnp.asarray(LOGITS[1]), jnp.asarray(other), highest=0.7, half=2.0)
    np.testing.assert_allclose(found, LOGITS[1] / (0.7 * 2.0 ** (-apart / 2.0))[:, None], rtol=1e-4)
    np.testing.assert_allclose(T.kl_temperature(LOGITS[1], LOGITS[1], highest=0.7), LOGITS[1] / 0.7, rtol=1e-5)


def test_a_condition_that_matters_most_is_the_likeliest_token():
    """Where the temperature underflows, or the condition alone allows a token, not infinite logits."""
    row = LOGITS[1, 0]
    for other, half in ((row[::-1], 1e-3), (np.where(row == row.max(), -np.inf, row), 1.0)):
        found = np.asarray(T.kl_temperature(jnp.asarray(row), jnp.asarray(other), half=half))
        np.testing.assert_array_equal(found, np.where(row == row.max(), row, -np.inf))


@pytest.mark.parametrize(("name", "number"), [("top_p", 0.9), ("typical", 0.9), ("min_p", 3e-4)])
def test_sets_of_half_precision_logits_are_those_of_their_values(name, number):
    """At a vocabulary of which bfloat16 cannot add up the probabilities, nor tell the bounds of the rules."""
    random = np.random.default_rng(0)
    logits = jnp.asarray(random.normal(size=20_000) - np.log(np.arange(1, 20_001)), jnp.bfloat16)
    found, wanted = (T.registry[name](leaf, number) for leaf in (logits, logits.astype(jnp.float32)))
    np.testing.assert_array_equal(jnp.isfinite(found), jnp.isfinite(wanted))


def test_a_truncated_network_draws_what_it_may():
    """In a masked sampler, whose law is that of the truncated posterior; other numbers compile nothing."""
    process = js.discrete.masked(13)
    sampler = js.discrete.ancestral(process, js.schedules.uniform(process, 4))
    logits = jnp.asarray(LOGITS[1])
    model = lambda x, t: jnp.broadcast_to(logits, (*x.shape, 13))
    x = process.prior(jax.random.key(0), (400, 5))
    draw = jax.jit(js.sample)
    warm = functools.partial(T.temperature, value=1.5)
    for p in (0.6, 0.9):
        tokens = draw(sampler, js.discrete.truncated(model, warm, Partial(T.top_p, p=p)), x, jax.random.key(1))
        allowed = np.isfinite(T.top_p(logits / 1.5, p))
        for place in range(5):
            assert set(np.unique(tokens[:, place])) == set(np.flatnonzero(allowed[place])), p
    assert draw._cache_size() == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: T.temperature(LOGITS, -1.0), "value must be at least 0"),
        (lambda: T.top_k(LOGITS, 0), "k must be at least 1"),
        (lambda: T.top_p(LOGITS, 1.5), "p must be at least 0 and at most 1"),
        (lambda: T.min_p(LOGITS, -0.1), "p must be at least 0"),
        (lambda: T.typical(LOGITS, 2.0), "p must be at least 0"),
        (lambda: T.eta(LOGITS, 1.1), "least must be at least 0"),
        (lambda: T.kl_temperature(LOGITS, LOGITS, half=0.0), "half must be above 0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
