"""Batches larger than memory: the same function on a part of the batch at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxsamplers import checks

if TYPE_CHECKING:
    from jaxtyping import Array, PyTree


def chunked(function: Callable[..., Any], size: int) -> Callable[..., Any]:
    """The same function of a batch, computed for ``size`` samples at a time.

        keys = js.sample_keys(key, jnp.arange(50_000))
        draw = lambda keys: js.sample(sampler, model, jax.vmap(lambda k: process.prior(k, shape))(keys), keys)
        images = jax.jit(js.chunked(draw, size=500))(keys)

    Memory is that of one chunk, the arguments and the results. A gradient also keeps what ``function`` keeps for it (of
    ``js.sample``, the registers of every row), unless that is ``jax.checkpoint(function)``, which computes each chunk
    again. With one key per sample, samples do not depend on the size. Chunks are made of every so-manieth sample, so
    that a batch sharded over devices stays where it is; ``size`` is then a multiple of their number. If chunks are not
    all full, the last sample is computed several times.

    Args:
        function: of arrays (pytrees of them) whose leading axis is the batch, as is that of its results. Whatever does
            not belong to a sample (a network's parameters, a sampler) is closed over.
        size: samples at a time, at most.

    Raises:
        ValueError: a size below 1; when called, arguments of different batches.
    """
    checks.integer("size", size, low=1)

    def whole(*arguments: PyTree) -> PyTree:
        batches = {leaf.shape[0] for leaf in jax.tree.leaves(arguments)}
        if len(batches) != 1:
            raise ValueError(f"all arguments must have the same leading axis, the batch, got {sorted(batches)}")
        (batch,) = batches
        chunks = -(-batch // size)
        each = -(-batch // chunks)

        def split(leaf: Array) -> Array:
            if chunks * each > batch:
                leaf = leaf[jnp.minimum(jnp.arange(chunks * each), batch - 1)]
            return jnp.swapaxes(leaf.reshape(each, chunks, *leaf.shape[1:]), 0, 1)

        def join(leaf: Array) -> Array:
            return jnp.swapaxes(leaf, 0, 1).reshape(chunks * each, *leaf.shape[2:])[:batch]

        return jax.tree.map(join, jax.lax.map(lambda part: function(*part), jax.tree.map(split, arguments)))

    return whole
