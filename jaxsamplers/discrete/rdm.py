"""Reparameterized diffusion: which positions are noise is decided anew in every step, by how likely their tokens are.

A step draws a clean token at *every* position, scores it by its log-probability, and looks at the ``k`` lowest scores
of the whole sequence, ``k`` falling to 0 by the schedule:

    noisy so far     noise where among the lowest, else the drawn token
    clean so far     noise where among the lowest, else as it was

In the variant "cond" a token that was clean becomes noise only if, besides, the same token has been drawn again with a
lower score than the one it once got.

The network must have an opinion on visible tokens: of one that carries them over, as exact posteriors of masked
processes do, each gets the score 0, the highest, and stays.
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
from jaxsamplers.discrete.randomness import BLOCK, NOISE_BLOCK, NOISE_TOKEN, ORDER, TOKEN, bits, log_unit
from jaxsamplers.discrete.table import grid, needed, tokens

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int, Key

    Times = Float[Array, " n+1"]
    Tokens = Int[Array, "... length"]
    Scores = Float[Array, "... length"]
    Memory = tuple[Bool[Array, "... length"], Scores]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """One row per network call.

    Attributes:
        time: what the network is shown.
        left: the share of positions that are noise after the row.
        spread: the scale of the Gumbel noise on the scores.
    """

    time: Float[Array, " n"]
    left: Float[Array, " n"]
    spread: Float[Array, " n"]


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["rows", "process", "active"], meta_fields=["variant", "greedy"]
)
@dataclasses.dataclass(frozen=True)
class Routing:
    """See ``rdm``; what is remembered is which positions are clean, and the score that each token came with.

    Attributes:
        rows: the numbers.
        process: what noise is.
        active: the positions that may move, all by default; see ``only``. Others are not counted.
        variant: "uncond" or "cond".
        greedy: whether the likeliest tokens are taken instead of drawn ones.
    """

    rows: Rows
    process: Replacement
    active: Bool[Array, "..."] | None = None
    variant: str = "uncond"
    greedy: bool = False

    def __len__(self) -> int:
        return self.rows.time.shape[0]

    def __getitem__(self, rows: slice) -> Routing:
        return take_rows(self, rows)

    def init(self, x: Tokens, key: Key[Array, ...] | None) -> SolverState:
        """Everything is noise that may be."""
        x = tokens(x, self.process.states)
        may = self.process.noise.probability(x) > 0
        return new_state(x, (~may, jnp.full(x.shape, -jnp.inf)), needed(key))

    def step(self, state: SolverState, row: Rows, model: Model) -> SolverState:
        """One network call; tokens are drawn before positions are chosen."""
        x, key = state.x, state.key
        assert key is not None
        word = lambda role: bits(fold_in(fold_in(key, state.step), role), x.shape)
        estimate = categorical(self.process.clean(model(x, row.time), x))
        drawn = jnp.argmax(estimate.logits, -1) if self.greedy else estimate.draw(word(BLOCK), word(TOKEN))
        score = jnp.log(estimate.weight(drawn)) - jnp.log(estimate.total)
        jitter = -row.spread * jnp.log(-log_unit(word(ORDER)))
        noise = self.process.noise.draw(word(NOISE_BLOCK), word(NOISE_TOKEN), None)
        moved, memory = self.decide(row, x, state.memory, drawn.astype(x.dtype), score, score + jitter, noise)
        return SolverState(moved, memory, key, state.step + 1)

    def decide(
        self, row: Rows, x: Tokens, memory: Memory, drawn: Tokens, score: Scores, rank: Scores, noise: Tokens
    ) -> tuple[Tokens, Memory]:
        """What becomes of the tokens and of what is remembered, given all draws; ``rank`` is the score by which."""
        clean, before = memory
        may = jnp.broadcast_to(True if self.active is None else self.active, x.shape)
        count = jnp.floor(may.sum(-1, keepdims=True) * row.left + 1e-3).astype(jnp.int32)
        place = jnp.argsort(jnp.argsort(jnp.where(may, rank, jnp.inf), axis=-1), axis=-1)
        lowest = may & (place < count)
        worse = (drawn == x) & (score < before) if self.variant == "cond" else True
        away = lowest & (~clean | worse)
        arrives = may & ~clean & ~lowest
        after = jnp.where(away, noise, jnp.where(arrives, drawn, x)).astype(x.dtype)
        scores = jnp.where(away, -jnp.inf, jnp.where(arrives, score.astype(before.dtype), before))
        return after, ((clean & ~away) | arrives, scores)


def rdm(
    process: Replacement,
    times: Times,
    *,
    variant: str = "uncond",
    spread: float | Float[Array, ""] = 0.0,
    greedy: bool = False,
) -> Routing:
    """RDM routing: the positions of the highest scores are clean, in each step anew; one call a step.

    It is no sampler of the network's law: the likelier of the drawn tokens are kept, one at a time or not.

    Args:
        process: masked, uniform or marginal.
        times: ``n + 1`` decreasing times; after the step to ``s`` a share ``(1 - alpha(s)) / (1 - alpha(t_0))`` of all
            positions is noise, rounded down.
        variant: "uncond", or the more careful "cond".
        spread: of the Gumbel noise on the scores, times that share; the authors' "stochastic" decoding.
        greedy: take the likeliest token everywhere instead of drawing one.

    Raises:
        ValueError: an unknown variant, a spread below 0, or a schedule that is not allowed.
        TypeError: a process of another kind.
    Source: Zheng et al. 2023, A reparameterized discrete diffusion model for text generation (arXiv 2302.05737), sec.
        4.3, and their program, in which ties can leave fewer noisy; here the first of them are.
    """
    checks.one_of("variant", variant, ("uncond", "cond"))
    checks.within("spread", spread, 0.0)
    times = grid(process, times, "rdm")
    left = process.noisiness(times[1:]) / process.noisiness(times[0])
    return Routing(Rows(times[:-1], left, spread * left), process, None, variant, greedy)
