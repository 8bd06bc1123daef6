"""ReMDM against its definition and exact laws of small spaces."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsamplers as js
from experiments import token_laws as exact

D = js.discrete
PROCESS = D.masked(3)
TIMES = jnp.array([1.0, 0.8, 0.55, 0.3, 0.1, 0.0])
SAMPLERS = {
    "cap": lambda times: D.remdm_cap(PROCESS, times, sigma=0.15),
    "rescale": lambda times: D.remdm_rescale(PROCESS, times, share=0.7),
    "most": lambda times: D.remdm_cap(PROCESS, times, sigma=1.0),
    "loop": lambda times: D.remdm_loop(PROCESS, times, at=3, loops=4, sigma=0.15),
}


def divergence(p, q):
    p, q = np.asarray(p), np.asarray(q)
    return float((p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum())


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_law_of_one_token_is_right_at_every_time(name, x64):
    """With one position the posterior is all there is, so each row leads from the exact law of x_t to that of x_s."""
    source = exact.chain()
    data = exact.data_law(source, 4, 1)
    sampler = SAMPLERS[name](TIMES.astype(jnp.float64))
    model = lambda x, t: jnp.broadcast_to(jnp.log(data[:3]), (*x.shape, 3))
    ends = [*np.asarray(sampler.rows.time[1:]), 0.0]
    law = exact.noised(PROCESS, data, 1.0, 1)
    for k, end in enumerate(ends):
        law = exact.output_law(sampler[k : k + 1], model, law, 1)
        np.testing.assert_allclose(law, exact.noised(PROCESS, data, end, 1), atol=1e-9)


@pytest.mark.parametrize("name", SAMPLERS)
def test_visible_tokens_are_masked_with_the_probability_of_the_definition(name, x64):
    sampler = SAMPLERS[name](TIMES.astype(jnp.float64))
    law = jax.vmap(lambda row: sampler.law(row, jnp.array([0, 3]), jnp.zeros((2, 3))))(sampler.rows)
    a = 1 - np.asarray(sampler.rows.time)
    b = np.append(a[1:], 1.0)
    most = np.minimum(1.0, (1 - b) / np.maximum(a, 1e-12))
    pause = (np.arange(len(a)) >= 3) & (np.arange(len(a)) < 7)
    sigma = {
        "cap": np.minimum(0.15, most),
        "rescale": 0.7 * most,
        "most": most,
        "loop": np.where(pause, np.minimum(0.15, most), 0.0),
    }[name]
    np.testing.assert_allclose(law[:, 0, 3], sigma, atol=1e-7)
    np.testing.assert_allclose(1 - law[:, 1, 3], (b - (1 - sigma) * a) / (1 - a), atol=1e-7)
    assert js.network_calls(sampler) == len(a) == (9 if name == "loop" else 5)


def test_nothing_masked_is_ancestral():
    wanted = D.ancestral(PROCESS, TIMES)
    for sampler in (D.remdm_cap(PROCESS, TIMES, sigma=0.0), D.remdm_loop(PROCESS, TIMES, at=2, loops=0)):
        jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(sampler), jax.tree.leaves(wanted))


def test_a_pause_brings_the_law_nearer_to_the_data(x64):
    """Steps at one time are a corrector: ever nearer to the law of x_t with more of them."""
    source = exact.chain()
    model = D.chain.chain_posterior(source, PROCESS)
    data = exact.data_law(source, 4, 3)
    prior = exact.noised(PROCESS, data, 1.0, 3)
    times = jnp.array([1.0, 0.4, 0.0], jnp.float64)
    apart = []
    for loops in (0, 4, 16):
        sampler = D.remdm_loop(PROCESS, times, at=1, loops=loops, sigma=0.05)
        apart.append(divergence(data, exact.output_law(sampler, model, prior, 3)))
    assert apart[1] < 0.9 * apart[0], apart
    assert apart[2] < 0.6 * apart[0], apart


def test_gradients_are_finite_at_both_ends():
    loss = lambda times: sum(leaf.sum() for leaf in jax.tree.leaves(D.remdm_rescale(PROCESS, times).rows.step))
    assert jnp.isfinite(jax.jit(jax.grad(loss))(TIMES)).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: D.remdm_cap(PROCESS, TIMES, sigma=1.5), "sigma must be at least 0"),
        (lambda: D.remdm_rescale(PROCESS, TIMES, share=-0.1), "share must be at least 0"),
        (lambda: D.remdm_cap(PROCESS, TIMES, sigma=jnp.ones(4)), "sigma must be a number or 5 of them"),
        (lambda: D.remdm_rescale(PROCESS, TIMES, share=jnp.ones(6)), "share must be a number or 5 of them"),
        (lambda: D.remdm_loop(PROCESS, TIMES, at=1, loops=2, sigma=jnp.ones(3)), "sigma must be a number or 2 of them"),
        (lambda: D.remdm_loop(PROCESS, TIMES, at=5, loops=1), "at must be at most 4"),
        (lambda: D.remdm_loop(PROCESS, TIMES, at=0, loops=1), "at must be at least 1"),
        (lambda: D.remdm_loop(PROCESS, TIMES, at=1, loops=-1), "loops must be at least 0"),
        (lambda: D.remdm_cap(D.uniform(3), TIMES), "remdm_cap masks tokens"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_confidence_masks_what_was_least_certain():
    """The softmax of the definition; nothing where nothing is visible or where positions are not to move."""
    sampler = D.remdm_confidence(PROCESS, TIMES)
    row = jax.tree.map(lambda leaf: leaf[3], sampler.rows)  # from 0.3 to 0.1: sigma_max is 0.1 / 0.7
    x = jnp.array([[0, 1, 3, 2], [3, 3, 3, 3]])
    drawn_with = jnp.array([[0.9, 0.2, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    weights = np.exp(-np.array([0.9, 0.2, 1.0]))
    wanted = 0.1 / 0.7 * weights / weights.sum()
    found = sampler.refresh(row, x, drawn_with)
    np.testing.assert_allclose(found[0], [wanted[0], wanted[1], 0.0, wanted[2]], rtol=1e-5)
    assert not found[1].any()
    held = D.only(sampler, jnp.array([True, True, True, False])).refresh(row, x, drawn_with)
    np.testing.assert_allclose(held[0, :2], 0.1 / 0.7 * weights[:2] / weights[:2].sum(), rtol=1e-5)
    assert not held[0, 2:].any()


def test_confidence_remembers_how_likely_each_token_was():
    sampler = D.remdm_confidence(PROCESS, TIMES)
    logits = jnp.log(jnp.array([0.5, 0.3, 0.2]))
    model = lambda x, t: jnp.broadcast_to(logits, (*x.shape, 3))
    x = PROCESS.prior(jax.random.key(0), (200, 6))
    run = jax.jit(lambda sampler, x, key: js.run(sampler, model, x, key))
    state = run(sampler[:3], x, jax.random.key(1))
    visible = np.asarray(state.x < 3)
    np.testing.assert_allclose(state.memory[visible], np.array([0.5, 0.3, 0.2])[state.x[visible]], rtol=1e-5)
    end = run(sampler[3:], state, None)
    assert set(np.unique(end.x)) == {0, 1, 2}
    assert ((np.asarray(state.x) != np.asarray(end.x)) & visible).any()  # some were drawn again
