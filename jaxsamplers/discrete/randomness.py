"""Random bits, per sample where asked, and decisions that are exact in float32.

A float32 uniform number is a multiple of 2^-23: an event of probability 1e-6 would happen 6% too often. Comparing 32
random bits with the threshold costs the same and is 500 times finer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Key, UInt32

MOVE, ROUTE, BLOCK, TOKEN, NOISE_BLOCK, NOISE_TOKEN, ORDER, CLOCK = range(8)  # roles of a row's keys, never renumbered


def bits(key: Key[Array, ...], shape: tuple[int, ...]) -> UInt32[Array, "..."]:
    """32 random bits for each entry; a key array of shape ``[batch]`` gives every sample its own.

    Raises:
        ValueError: not as many keys as samples.
    """
    if key.ndim == 0:
        return jax.random.bits(key, shape, jnp.uint32)
    if key.shape != shape[:1]:
        raise ValueError(f"one key per sample: {key.shape[0]} keys for a sample of shape {shape}")
    return jax.vmap(lambda k: jax.random.bits(k, shape[1:], jnp.uint32))(key)


def happens(random: UInt32[Array, "..."], probability: Float[Array, "..."]) -> Bool[Array, "..."]:
    """An event of this probability: of 32 bits the first ``probability * 2^32`` values."""
    certain = probability >= 1
    share = jnp.where(certain, 0.0, jnp.maximum(probability, 0.0))
    return certain | (random < (share * 2.0**32).astype(jnp.uint32))


def unit(random: UInt32[Array, "..."]) -> Float[Array, "..."]:
    """Uniform in [0, 1), a multiple of 2^-24."""
    return (random >> 8).astype(jnp.float32) * 2.0**-24


def log_unit(random: UInt32[Array, "..."]) -> Float[Array, "..."]:
    """The logarithm of a uniform number in (0, 1), finite and below 0: a waiting time of 0 would be a certain event."""
    return jnp.log(jnp.minimum((random.astype(jnp.float32) + 0.5) * 2.0**-32, 1 - 2.0**-24))
