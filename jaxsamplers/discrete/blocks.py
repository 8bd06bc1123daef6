"""Block by block from left to right, each by a sampler of its own: between autoregression and diffusion.

The positions that may move are counted from left to right and cut into blocks of one length. All rows of a sampler are
taken for the first block, while everything behind stays noise; then for the second, with the first one clean; and so
on. Blocks of one position and one row each are autoregression; one block is the sampler itself.

The network sees tokens of two kinds of noise, and the time of the block: that is right for networks of masks that do
not look at time. With other noise it must be one that was trained on blocks.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.core import Model, Sampler, SolverState, take_rows
from jaxsamplers.discrete.table import only

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int, Key

    from jaxsamplers.discrete.processes import Replacement

    Tokens = Int[Array, "... length"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """A sampler's rows, again for each block.

    Attributes:
        block: the number of the block.
        first: whether the block begins with this row.
        inner: the sampler's row.
    """

    block: Int[Array, " n"]
    first: Bool[Array, " n"]
    inner: Any

    @property
    def time(self) -> Array:
        """What the network is shown."""
        return self.inner.time


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Blocks:
    """A sampler that is run on one block after another; made by ``blocks``.

    Attributes:
        rows: its rows, block by block.
        sampler: any of this package.
        size: how many positions a block has.
    """

    rows: Rows
    sampler: Any
    size: Int[Array, ""]

    @property
    def process(self) -> Replacement:
        """The sampler's."""
        return self.sampler.process

    @property
    def active(self) -> Bool[Array, "..."] | None:
        """The sampler's."""
        return self.sampler.active

    def __len__(self) -> int:
        return self.rows.block.shape[0]

    def __getitem__(self, rows: slice) -> Blocks:
        return take_rows(self, rows)

    def init(self, x: Tokens, key: Key[Array, ...] | None) -> SolverState:
        """The sampler's."""
        return self.sampler.init(x, key)

    def step(self, state: SolverState, row: Rows, model: Model) -> SolverState:
        """The sampler's, for the positions of this block; what it remembers begins anew with each."""
        inner = only(self.sampler, self.within(row, state.x))
        fresh = inner.init(state.x, state.key).memory
        memory = jax.tree.map(lambda new, old: jnp.where(row.first, new, old), fresh, state.memory)
        return inner.step(dataclasses.replace(state, memory=memory), row.inner, model)

    def law(self, row: Rows, x: Tokens, logits: Float[Array, "... V"]) -> Float[Array, "... S"]:
        """The law of each token after this row, of samplers that have one."""
        return only(self.sampler, self.within(row, x)).law(row.inner, x, logits)

    def within(self, row: Rows, x: Tokens) -> Bool[Array, "... length"]:
        """Which positions this block has: of those that may move, so many from left to right."""
        may = jnp.broadcast_to(True if self.active is None else self.active, x.shape)
        return may & ((jnp.cumsum(may, axis=-1) - 1) // self.size == row.block)


def blocks(sampler: Sampler, length: int, size: int) -> Blocks:
    """Semi-autoregressive sampling: left-to-right blocks, each by all rows of a sampler.

    Network calls: the sampler's for each of ``ceil(length / size)`` blocks.

    Args:
        sampler: any of this package; its times are those of one block. ``first_hitting`` needs ``size`` events,
            ``ordered`` a ``length`` of ``size`` if any.
        length: how many positions of a sequence may move, at most. Prompts are not counted, and sequences with fewer
            have fewer blocks; theirs end first.
        size: positions of a block.

    Raises:
        ValueError: numbers below 1.
    Source: Nie et al. 2025, LLaDA (arXiv 2502.09992), sec. 2.4; Arriola et al. 2025, BD3-LM (arXiv 2503.09573). That a
        network need not see what lies behind the block is its own business.
    """
    checks.integer("length", length, low=1)
    checks.integer("size", size, low=1)
    count, steps = -(-length // size), jax.tree.leaves(sampler.rows)[0].shape[0]
    again = lambda leaf: jnp.concatenate([leaf] * count)
    first = jnp.arange(count * steps) % steps == 0
    rows = Rows(jnp.repeat(jnp.arange(count), steps), first, jax.tree.map(again, sampler.rows))
    return Blocks(rows, sampler, jnp.asarray(size))
