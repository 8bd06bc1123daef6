"""Draws from large vocabularies: two uniform numbers a row instead of one Gumbel number a token.

The weights ``exp(logits - max)`` are summed in blocks; one uniform number picks a block from the cumulative sums,
another a token within it, for which only that block of the logits is read again. Nothing as large as the logits is
written. Both cumulative sums are short, so float32 is enough: a token's probability is resolved to ``2^-24`` of its
block's, and a block's to ``2^-24`` of everything.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from jaxsamplers.discrete.randomness import unit
from jaxsamplers.laws import pytree

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int, UInt32

BLOCK = 256  # tokens whose weights are summed together; the best of 64 to 1024 at vocab 50,257


@pytree
class Categorical:
    """A distribution over tokens, ready to draw from; made by ``categorical``.

    Attributes:
        logits: unnormalised log-probabilities, possibly shared by all rows.
        peak: their maximum.
        blocks: sums of ``exp(logits - peak)`` over blocks of tokens.
        banned: a token of each row that is left out, or ``None``.
    """

    logits: Float[Array, "... V"]
    peak: Float[Array, "..."]
    blocks: Float[Array, "... blocks"]
    banned: Int[Array, "..."] | None = None

    @property
    def total(self) -> Float[Array, "..."]:
        """The sum of all weights ``exp(logits - peak)``."""
        return self.blocks.sum(-1)

    def weight(self, token: Int[Array, "..."]) -> Float[Array, "..."]:
        """``exp(logits - peak)`` of one token a row; 0 for what is no token, such as the mask."""
        size = self.logits.shape[-1]
        known = (token >= 0) & (token < size)
        weight = jnp.exp(self._take(jnp.clip(token, 0, size - 1)[..., None])[..., 0] - self.peak)
        return jnp.where(known & ~self._is_banned(token), weight, 0.0)

    def without(self, token: Int[Array, "..."]) -> Categorical:
        """The same without one token a row: its block is summed again, so that no digits cancel."""
        place = token // BLOCK
        lone = Categorical(self.logits, self.peak, self.blocks, token)
        again = lone._block(place).sum(-1)
        is_it = jnp.arange(self.blocks.shape[-1]) == place[..., None]
        return Categorical(self.logits, self.peak, jnp.where(is_it, again[..., None], self.blocks), token)

    def draw(self, first: UInt32[Array, "..."], second: UInt32[Array, "..."]) -> Int[Array, "..."]:
        """A token of each row: ``first`` picks the block, ``second`` the token within."""
        place = _inverse(self.blocks, first)
        return place * BLOCK + _inverse(self._block(place), second)

    def probabilities(self) -> Float[Array, "... V"]:
        """All of them, normalised; zeros where no token is possible."""
        weights = jnp.exp(self.logits - self.peak[..., None])
        weights = jnp.where(self._is_banned(jnp.arange(weights.shape[-1]), 1), 0.0, weights)
        total = weights.sum(-1, keepdims=True)
        return weights / jnp.where(total > 0, total, 1.0)

    def _block(self, place: Int[Array, "..."]) -> Float[Array, "... BLOCK"]:
        size = self.logits.shape[-1]
        token = place[..., None] * BLOCK + jnp.arange(min(BLOCK, size))
        weights = jnp.exp(self._take(jnp.clip(token, 0, size - 1)) - self.peak[..., None])
        return jnp.where((token >= size) | (token < 0) | self._is_banned(token, 1), 0.0, weights)

    def _take(self, token: Int[Array, "... k"]) -> Float[Array, "... k"]:
        if self.logits.ndim == 1:
            return self.logits[token]
        return jnp.take_along_axis(self.logits, token, axis=-1)

    def _is_banned(self, token: Int[Array, "..."], more: int = 0) -> Bool[Array, "..."]:
        if self.banned is None:
            return jnp.zeros((), bool)
        return token == jnp.expand_dims(self.banned, tuple(range(-more, 0)))


def categorical(logits: Float[Array, "... V"]) -> Categorical:
    """A distribution over the last axis from unnormalised log-probabilities, of which some may be -inf."""
    logits = wide(logits)
    peak = logits.max(-1)
    peak = jax.lax.stop_gradient(jnp.where(jnp.isfinite(peak), peak, 0.0))
    weights = jnp.exp(logits - peak[..., None])
    missing = -weights.shape[-1] % BLOCK if weights.shape[-1] > BLOCK else 0
    weights = jnp.pad(weights, [(0, 0)] * (weights.ndim - 1) + [(0, missing)])
    return Categorical(logits, peak, weights.reshape(*peak.shape, -1, min(BLOCK, weights.shape[-1])).sum(-1))


def wide(values: Float[Array, "..."]) -> Float[Array, "..."]:
    """In float32 or better."""
    return values.astype(jnp.promote_types(values.dtype, jnp.float32))


@functools.partial(jnp.vectorize, signature="(n),()->()")
def _inverse(weights: Float[Array, " n"], random: UInt32[Array, ""]) -> Int[Array, ""]:
    """The first place of positive weight where the cumulative sum exceeds its share ``random`` of the total."""
    sums = jnp.cumsum(weights)
    reached = (sums > unit(random).astype(weights.dtype) * sums[-1]) & (weights > 0)
    return jnp.where(reached.any(), jnp.argmax(reached), jnp.argmax(weights)).astype(jnp.int32)
