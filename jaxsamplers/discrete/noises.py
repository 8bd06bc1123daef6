"""Where a token goes when it is hit by noise: the mask, any token alike, or a token of given probability."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Protocol

import jax
import jax.numpy as jnp

from jaxsamplers.discrete.categorical import Categorical
from jaxsamplers.laws import pytree

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, UInt32

    Tokens = Int[Array, "..."]


class Noise(Protocol):
    """A distribution ``pi`` over states."""

    @property
    def absorbing(self) -> bool:
        """Whether ``pi`` is all on one state that is no clean token."""

    def probability(self, x: Tokens) -> Float[Array, "..."]:
        """``pi(x)``."""

    def draw(self, first: UInt32[Array, "..."], second: UInt32[Array, "..."], other_than: Tokens | None) -> Tokens:
        """A state for each pair of random words, other than one given."""


@functools.partial(jax.tree_util.register_dataclass, data_fields=[], meta_fields=["mask"])
@dataclasses.dataclass(frozen=True)
class Mask:
    """All noise is the mask."""

    mask: int

    @property
    def absorbing(self) -> bool:
        """Always."""
        return True

    def probability(self, x: Tokens) -> Float[Array, "..."]:
        """1 at the mask."""
        return (x == self.mask).astype(jnp.result_type(float))

    def draw(self, first: UInt32[Array, "..."], second: UInt32[Array, "..."], other_than: Tokens | None) -> Tokens:
        """The mask."""
        return jnp.full(first.shape, self.mask, jnp.int32)


@functools.partial(jax.tree_util.register_dataclass, data_fields=[], meta_fields=["vocab"])
@dataclasses.dataclass(frozen=True)
class Even:
    """Every token alike."""

    vocab: int

    @property
    def absorbing(self) -> bool:
        """Never."""
        return False

    def probability(self, x: Tokens) -> Float[Array, "..."]:
        """``1 / vocab``."""
        return jnp.full(jnp.shape(x), 1 / self.vocab, jnp.result_type(float))

    def draw(self, first: UInt32[Array, "..."], second: UInt32[Array, "..."], other_than: Tokens | None) -> Tokens:
        """By the remainder of 32 bits, a bias of less than ``vocab / 2^32``."""
        if other_than is None or self.vocab == 1:
            return (first % self.vocab).astype(jnp.int32)
        drawn = (first % (self.vocab - 1)).astype(jnp.int32)
        return drawn + (drawn >= other_than)


@pytree
class Given:
    """Tokens of given probabilities."""

    tokens: Categorical

    @property
    def absorbing(self) -> bool:
        """Never."""
        return False

    def probability(self, x: Tokens) -> Float[Array, "..."]:
        """Of each token."""
        return self.tokens.weight(x) / self.tokens.total

    def draw(self, first: UInt32[Array, "..."], second: UInt32[Array, "..."], other_than: Tokens | None) -> Tokens:
        """In two levels; see ``categorical``."""
        start = jnp.full(first.shape, -1, jnp.int32) if other_than is None else other_than
        return self.tokens.without(start).draw(first, second)
