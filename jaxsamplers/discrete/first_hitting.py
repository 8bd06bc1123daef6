"""First hitting: from one event to the next, each sequence by its own clock.

With ``n`` masks left at time ``t``, the next of them becomes a token at the time ``s`` where

    1 - alpha(s) = (1 - alpha(t)) u^(1 / n)        u uniform in (0, 1)

it is any of them alike, and its token is drawn from the posterior at ``s``. No two tokens are ever drawn from the same
posterior, so with an exact one the sampler is exact: one call a token, none of them wasted.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.core import Model, SolverState, fold_in, new_state, take_rows
from jaxsamplers.discrete.categorical import categorical
from jaxsamplers.discrete.processes import Replacement
from jaxsamplers.discrete.randomness import BLOCK, CLOCK, ORDER, TOKEN, bits, log_unit
from jaxsamplers.discrete.table import needed, tokens

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Int, Key

    Tokens = Int[Array, "... length"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """One row per event.

    Attributes:
        event: its number.
    """

    event: Int[Array, " n"]


@functools.partial(jax.tree_util.register_dataclass, data_fields=["rows", "process", "active"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class FirstHitting:
    """A sampler of masked tokens, one event a row; its memory is ``log(1 - alpha)`` at each sequence's own time.

    Attributes:
        rows: the events.
        process: a masked one.
        active: the positions that may move, all by default; see ``only``.
    """

    rows: Rows
    process: Replacement
    active: Bool[Array, "..."] | None = None

    def __len__(self) -> int:
        return self.rows.event.shape[0]

    def __getitem__(self, rows: slice) -> FirstHitting:
        return take_rows(self, rows)

    def init(self, x: Tokens, key: Key[Array, ...] | None) -> SolverState:
        """All clocks at ``t_max``."""
        x = tokens(x, self.process.states)
        start = jnp.log(self.process.noisiness(self.process.t_max))
        return new_state(x, jnp.broadcast_to(start, x.shape[:-1]), needed(key))

    def step(self, state: SolverState, row: Rows, model: Model) -> SolverState:
        """The next event of every sequence; nothing where no masks are left."""
        x, key = state.x, state.key
        assert key is not None
        word = lambda role: fold_in(fold_in(key, state.step), role)
        hidden = self.process.noise.probability(x) > 0
        hidden = hidden if self.active is None else hidden & self.active
        count = hidden.sum(-1)
        some = count > 0
        noise = state.memory + jnp.where(some, log_unit(bits(word(CLOCK), count.shape)) / jnp.maximum(count, 1), 0.0)
        time = self.process.time(jnp.log1p(-jnp.exp(noise)))
        logits = self.process.clean(model(x, time), x)
        priority = jnp.where(hidden, bits(word(ORDER), x.shape) >> 1, 0)  # 31 bits: the largest is any of them alike
        place = jnp.argmax(jnp.where(hidden, priority.astype(jnp.int32), -1), axis=-1)[..., None]
        there = categorical(jnp.take_along_axis(logits, place[..., None], axis=-2))
        drawn = there.draw(bits(word(BLOCK), place.shape), bits(word(TOKEN), place.shape)).astype(x.dtype)
        drawn = jnp.where(some[..., None], drawn, jnp.take_along_axis(x, place, axis=-1))
        moved = jnp.put_along_axis(x, place, drawn, axis=-1, inplace=False)
        return SolverState(moved, noise, key, state.step + 1)


def first_hitting(process: Replacement, events: int) -> FirstHitting:
    """One token at a time, at the times of the continuous process; one call a token.

    The network is shown a time per sequence, ``[batch]``. ``log(1 - alpha)`` at those times is in the state's memory.

    Args:
        process: a masked one.
        events: how many tokens become clean at most: the length of the sequences, or less with prompts.

    Raises:
        ValueError: fewer than one event.
        TypeError: a process without masks.
    Source: Zheng et al. 2024 (arXiv 2409.02908), the first-hitting sampler.
    """
    checks.integer("events", events, low=1)
    if not isinstance(process, Replacement) or not process.noise.absorbing:
        raise TypeError("first_hitting needs a masked process: only there does every event clean a token")
    return FirstHitting(Rows(jnp.arange(events)), process)
