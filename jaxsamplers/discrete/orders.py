"""Orders in which masks become tokens: what comes first when a step may clean so many positions and no more.

An order is a function ``(key, x, estimate) -> priority``, one number a position, the highest first; it never sees which
positions may move at all, masks that are not padding: that is the sampler's business. All of these look at the
posterior only, not at a token drawn from it, so that one position at a time is exact in any order. Of equal priorities
the leftmost comes first.

``pc`` makes an order from how often tokens occur.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
from jax.tree_util import Partial

from jaxsamplers import checks
from jaxsamplers.discrete.categorical import Categorical
from jaxsamplers.discrete.randomness import bits, unit

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, Key

    Tokens = Int[Array, "..."]
    Priority = Float[Array, "..."]

Order = Callable[..., Any]


def random(key: Key[Array, ...], x: Tokens, estimate: Categorical) -> Priority:
    """Any position alike: the order of training."""
    return unit(bits(key, x.shape))


def left_to_right(key: Key[Array, ...], x: Tokens, estimate: Categorical) -> Priority:
    """As a reader does."""
    return jnp.broadcast_to(-jnp.arange(x.shape[-1], dtype=jnp.float32), x.shape)


def confidence(key: Key[Array, ...], x: Tokens, estimate: Categorical) -> Priority:
    """The position whose likeliest token is likeliest. Source: Nie et al. 2025, LLaDA (arXiv 2502.09992)."""
    return -jnp.log(estimate.total)  # the likeliest token has weight 1


def margin(key: Key[Array, ...], x: Tokens, estimate: Categorical) -> Priority:
    """The position whose likeliest token is furthest ahead. Source: Kim et al. 2025 (arXiv 2502.06768)."""
    logits = estimate.logits
    best = jnp.arange(logits.shape[-1]) == jnp.argmax(logits, axis=-1)[..., None]
    second = jnp.where(best, -jnp.inf, logits).max(-1)
    return -jnp.expm1(second - estimate.peak) / estimate.total


def entropy(key: Key[Array, ...], x: Tokens, estimate: Categorical) -> Priority:
    """The position of least entropy. Source: Ye et al. 2025, Dream (arXiv 2508.15487)."""
    surplus = estimate.logits - estimate.peak[..., None]
    possible = jnp.isfinite(surplus)
    mean = jnp.where(possible, jnp.exp(surplus) * jnp.where(possible, surplus, 0.0), 0.0).sum(-1) / estimate.total
    return mean - jnp.log(estimate.total)


def pc(frequencies: Float[Array, " V"], *, decay: float = 0.25, cap: float = 10.0) -> Partial:
    """PC-Sampler's order: ``e^(-decay i) min(-p log f, cap)`` of the likeliest token at position ``i``.

    What is likely but also frequent, an end of text for one, is not worth much; what stands early is worth more. With
    ``blocks`` the authors count positions in the block, which makes no difference.

    Args:
        frequencies: of every token in some corpus, not negative; their sum does not matter. Those of 0 count as 1e-9.
        decay: how much less a position is worth than the one before it, from 0; the authors' .25, for some tasks 0 or
            .5.
        cap: the largest ``-p log f`` there is, above 0.

    Raises:
        ValueError: numbers out of range.
    Source: Huang et al. 2025, PC-Sampler (arXiv 2508.13021), whose program weighs the token it has drawn.
    """
    checks.within("frequencies", frequencies, 0.0)
    checks.within("the sum of frequencies", jnp.sum(jnp.asarray(frequencies)), 0.0, above=True)
    checks.within("decay", decay, 0.0)
    checks.within("cap", cap, 0.0, above=True)
    frequencies = jnp.asarray(frequencies, jnp.result_type(float))
    return Partial(_pc, -jnp.log(frequencies / frequencies.sum() + 1e-9), jnp.asarray(decay), jnp.asarray(cap))


def _pc(
    surprise: Float[Array, " V"],
    decay: Float[Array, ""],
    cap: Float[Array, ""],
    key: Key[Array, ...],
    x: Tokens,
    estimate: Categorical,
) -> Priority:
    worth = jnp.minimum(surprise[jnp.argmax(estimate.logits, axis=-1)] / estimate.total, cap)
    return jnp.log(jnp.maximum(worth, 1e-30)) - decay * jnp.arange(x.shape[-1])  # a logarithm, as e^-250 would be 0


registry: dict[str, Order] = {
    "random": random,
    "left_to_right": left_to_right,
    "confidence": confidence,
    "margin": margin,
    "entropy": entropy,
}
