"""Samplers of masked processes that clean a given number of positions a step, in any order.

After the step to ``s`` a share ``(1 - alpha(s)) / (1 - alpha(t_0))`` of the masks that there were in the beginning is
left, to the nearest whole number, of each sequence by itself: prompts and padding are no masks and do not count. A rule
of ``counts`` may clean more of them where the network is sure; a sequence without masks waits for the others.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from jaxsamplers import checks
from jaxsamplers.core import Model, SolverState, fold_in, new_state, take_rows
from jaxsamplers.denoisers import as_pytree
from jaxsamplers.discrete.categorical import Categorical, categorical
from jaxsamplers.discrete.counts import Count
from jaxsamplers.discrete.orders import Order, random, registry
from jaxsamplers.discrete.processes import Replacement
from jaxsamplers.discrete.randomness import BLOCK, ORDER, TOKEN, bits
from jaxsamplers.discrete.table import grid, needed, tokens

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int, Key

    Times = Float[Array, " n+1"]
    Tokens = Int[Array, "... length"]

RANDOM = as_pytree(random)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """One row per network call.

    Attributes:
        time: what the network is shown.
        left: the share of the first masks that is left after the row.
    """

    time: Float[Array, " n"]
    left: Float[Array, " n"]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["rows", "process", "active", "order", "count"],
    meta_fields=["most", "greedy"],
)
@dataclasses.dataclass(frozen=True)
class OrderedSampler:
    """A sampler of masked tokens in an order; see the module's docstring.

    Attributes:
        rows: times and shares.
        process: a masked one.
        active: the positions that may move, all by default; see ``only``.
        order: which positions come first, a pytree.
        count: how many come, a pytree; ``None`` for the schedule's number.
        most: how many positions a row can need at most, ``None`` for all of them.
        greedy: whether the likeliest token is taken instead of a drawn one.
    """

    rows: Rows
    process: Replacement
    active: Bool[Array, "..."] | None = None
    order: Order = RANDOM
    count: Count | None = None
    most: int | None = None
    greedy: bool = False

    def __len__(self) -> int:
        return self.rows.time.shape[0]

    def __getitem__(self, rows: slice) -> OrderedSampler:
        return take_rows(self, rows)

    def init(self, x: Tokens, key: Key[Array, ...] | None) -> SolverState:
        """Tokens, a key, and how many masks each sequence has."""
        x = tokens(x, self.process.states)
        return new_state(x, self._hidden(x).sum(-1), needed(key))

    def step(self, state: SolverState, row: Rows, model: Model) -> SolverState:
        """One network call; the positions are chosen before their tokens are drawn."""
        x, key = state.x, state.key
        assert key is not None
        word = lambda role: fold_in(fold_in(key, state.step), role)
        estimate = categorical(self.process.clean(model(x, row.time), x))
        places, chosen = self.choose(word(ORDER), row, x, estimate, state.memory)
        there = _at(estimate, places)
        if self.greedy:
            drawn = jnp.argmax(there.logits, axis=-1)
        else:
            drawn = there.draw(bits(word(BLOCK), places.shape), bits(word(TOKEN), places.shape))
        kept = jnp.take_along_axis(x, places, axis=-1)
        drawn = jnp.where(chosen, drawn.astype(x.dtype), kept)
        return SolverState(
            jnp.put_along_axis(x, places, drawn, axis=-1, inplace=False), state.memory, key, state.step + 1
        )

    def choose(
        self, key: Key[Array, ...], row: Rows, x: Tokens, estimate: Categorical, first: Int[Array, "..."]
    ) -> tuple[Int[Array, "... most"], Bool[Array, "... most"]]:
        """Positions in order, and which of them become tokens in this row; ``first`` is how many masks there were."""
        hidden = self._hidden(x)
        number = hidden.sum(-1) - jnp.round(first * row.left).astype(jnp.int32)
        priority = jnp.maximum(self.order(key, x, estimate), np.finfo(np.float32).min)
        most = x.shape[-1] if self.most is None else min(self.most, x.shape[-1])
        places = jax.lax.top_k(jnp.where(hidden, priority, -jnp.inf), most)[1]
        some = jnp.arange(most) < hidden.sum(-1, keepdims=True)
        if self.count is not None:
            sure = 1 / jnp.take_along_axis(estimate.total, places, axis=-1)
            number = jnp.maximum(number, jnp.maximum(self.count(jnp.where(some, sure, 0.0)), 1))
        return places, (jnp.arange(most) < number[..., None]) & some

    def _hidden(self, x: Tokens) -> Bool[Array, "... length"]:
        hidden = self.process.noise.probability(x) > 0
        return hidden if self.active is None else hidden & self.active


def ordered(
    process: Replacement,
    times: Times,
    *,
    order: str | Order = "random",
    count: Count | None = None,
    length: int | None = None,
    greedy: bool = False,
) -> OrderedSampler:
    """Masks become tokens in an order, a given number a step; one call a step.

    With as many steps as masks (and a law linear in time) it is one at a time, which is exact in every order of
    ``orders.registry``. With fewer, tokens of one step are drawn independently, and an order that picks neighbours, as
    "confidence" does on text, can be much worse than "random".

    Args:
        process: a masked one.
        times: ``n + 1`` decreasing times; all masks are gone where they end at 0.
        order: a name in ``orders.registry``, or a function as described there, such as ``orders.pc(frequencies)``.
        count: a rule for more positions than the schedule's, such as ``counts.threshold(0.9)``. At least one is cleaned
            a row, so that ``length`` steps are always enough; when a batch is done early depends on the network, which
            ``cached`` does not ask any more then. The time it is shown stays that of the schedule.
        length: of the sequences. If given, tokens are drawn at as many positions as a step can need instead of at all;
            of sequences with more masks some may be left.
        greedy: take the likeliest token instead of drawing one.

    Raises:
        ValueError: an unknown order, or a schedule that is not allowed.
        TypeError: a process without masks.
    Source: Chang et al. 2022, MaskGIT (arXiv 2202.04200), sec. 3.2, for the number a step; orders say their own.
    """
    times = grid(process, times, "ordered")
    if not process.noise.absorbing:
        raise TypeError("ordered needs a masked process: with other noise no position is known to be clean")
    if not callable(order):
        order = checks.look_up("order", order, registry)
    left = process.noisiness(times[1:]) / process.noisiness(times[0])
    most = None
    if length is not None:
        known = checks.concrete(left)
        if known is None:
            raise ValueError("length cannot be used while times are traced: the number of positions must be known")
        checks.integer("length", length, low=1)
        most = (
            length if count is not None else min(length, int(length * np.max(-np.diff(known, prepend=1.0)) + 1 + 1e-3))
        )
    rule = None if count is None else as_pytree(count)
    return OrderedSampler(Rows(times[:-1], left), process, None, as_pytree(order), rule, most, greedy)


def _at(estimate: Categorical, places: Int[Array, "... most"]) -> Categorical:
    take = lambda leaf, places, axis: jnp.take_along_axis(leaf, places, axis=axis)
    logits = take(estimate.logits, places[..., None], -2)
    return Categorical(logits, take(estimate.peak, places, -1), take(estimate.blocks, places[..., None], -2))
