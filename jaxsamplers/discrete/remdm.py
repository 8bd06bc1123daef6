"""ReMDM: masked diffusion in which visible tokens are masked again, so that mistakes can be corrected.

With ``a = alpha(t)``, ``b = alpha(s)``, a step masks a visible token with probability ``sigma`` and turns a mask into a
token with ``(b - (1 - sigma) a) / (1 - a)``, which leaves the marginals as they are as long as

    sigma <= sigma_max = min(1, (1 - b) / a)

    cap       min(eta, sigma_max)
    rescale   eta sigma_max
    loop      as usual until a_on is visible, then with a_on for a while, sigma = eta, then as usual to the end
    conf      sigma_max times a softmax over the sequence of minus the probability each token had when it was drawn

"conf" masks one token a step at most, of those that were least certain, and unmasks no more for it, as published: its
marginals are not the process's.

Source: Wang, Schiff, Sahoo & Kuleshov 2025, Remasking discrete diffusion models with inference-time scaling (arXiv
2503.00307), sec. 4, and the authors' program, whose defaults are cap .008, rescale .015, loop .02 at 1024 steps.
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
from jaxsamplers.discrete.routing import route, take
from jaxsamplers.discrete.samplers import ancestral, exact_coefficients
from jaxsamplers.discrete.table import Rows, TokenTable, grid, needed, table, tokens

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int, Key

    from jaxsamplers.discrete.processes import Replacement

    Times = Float[Array, " n+1"]
    Tokens = Int[Array, "... length"]

STRATEGIES = ("cap", "rescale", "loop")


def remdm(
    process: Replacement,
    times: Times,
    *,
    strategy: str = "cap",
    eta: float | Float[Array, " n"] = 0.02,
    on: float = 0.55,
    off: float = 0.05,
    visible: float = 0.9,
) -> TokenTable:
    """ReMDM as a table; one call a step.

    Args:
        process: a masked one.
        times: ``n + 1`` decreasing times.
        strategy: "cap", "rescale" or "loop"; ``remdm_confidence`` is the fourth.
        eta: how much is masked again, from 0 (``ancestral``) to 1; a number, or one a step.
        on: the share of the time from ``times[0]`` to 0 that is left when the loop begins.
        off: likewise, when it ends.
        visible: ``alpha`` in the loop.

    Raises:
        ValueError: an unknown strategy, numbers out of range, or a schedule that is not allowed.
        TypeError: a process without masks.
    """
    checks.one_of("strategy", strategy, STRATEGIES)
    checks.within("eta", eta, 0.0, 1.0)
    times = _masked_grid(process, times, "remdm")
    active = jnp.ones(len(times) - 1, bool)
    if strategy == "loop":
        checks.within("visible", visible, 0.0, 1.0)
        checks.within("off", off, 0.0, 1.0)
        checks.within("on", on, off, 1.0)
        times, active = _loop(process, times, on, off, visible)
    most = _most(process, times)
    sigma = eta * most if strategy == "rescale" else jnp.minimum(jnp.asarray(eta), most)
    sigma = jnp.where(active, sigma, 0.0)
    a, b = process.survival(times[:-1]), process.survival(times[1:])
    hidden = process.noisiness(times[:-1])
    clean, _ = exact_coefficients(process, times)
    return table(process, times, clean + sigma * a / hidden, 0.0, jnp.where(b == 1, 0.0, sigma), exact=True)


def remdm_confidence(process: Replacement, times: Times) -> Confidence:
    """ReMDM-conf: of the visible tokens those that were drawn with little confidence; one call a step.

    Args:
        process: a masked one.
        times: ``n + 1`` decreasing times.

    Raises:
        ValueError: a schedule that is not allowed.
        TypeError: a process without masks.
    """
    times = _masked_grid(process, times, "remdm_confidence")
    return Confidence(ConfidenceRows(ancestral(process, times).rows, _most(process, times)), process)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ConfidenceRows:
    """One row per network call.

    Attributes:
        step: as ``ancestral`` has it.
        most: ``sigma_max``.
    """

    step: Rows
    most: Float[Array, " n"]


@functools.partial(jax.tree_util.register_dataclass, data_fields=["rows", "process", "active"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Confidence:
    """See ``remdm_confidence``; what is remembered is the probability each token was drawn with.

    Attributes:
        rows: one per network call.
        process: a masked one.
        active: the positions that may move, all by default; see ``only``. Others count as certain.
    """

    rows: ConfidenceRows
    process: Replacement
    active: Bool[Array, "..."] | None = None

    def __len__(self) -> int:
        return self.rows.most.shape[0]

    def __getitem__(self, rows: slice) -> Confidence:
        return take_rows(self, rows)

    def init(self, x: Tokens, key: Key[Array, ...] | None) -> SolverState:
        """What is visible in the beginning is certain."""
        x = tokens(x, self.process.states)
        return new_state(x, jnp.ones(x.shape, jnp.float32), needed(key))

    def step(self, state: SolverState, row: ConfidenceRows, model: Model) -> SolverState:
        """One network call."""
        x, drawn_with, key = state.x, state.memory, state.key
        assert key is not None
        estimate = categorical(self.process.clean(model(x, row.step.time), x))
        again = dataclasses.replace(row.step.step, refresh=self.refresh(row, x, drawn_with))
        there = route(self.process, again, x, estimate).only(self.active)
        moved = take(self.process.noise, fold_in(key, state.step), x, there)
        certain = jnp.where(moved == x, drawn_with, (estimate.weight(moved) / estimate.total).astype(jnp.float32))
        return SolverState(moved, certain, key, state.step + 1)

    def refresh(self, row: ConfidenceRows, x: Tokens, drawn_with: Float[Array, "..."]) -> Float[Array, "..."]:
        """The probability with which each visible token is masked; 0 for others and where nothing is visible."""
        may = self.process.noise.probability(x) == 0
        if self.active is not None:
            may = may & self.active
        share = jax.nn.softmax(jnp.where(may, -drawn_with, -jnp.inf), axis=-1, where=may)
        return row.most * jnp.where(may, share, 0.0)


def _masked_grid(process: Replacement, times: Times, name: str) -> Times:
    times = grid(process, times, name)
    if not process.noise.absorbing:
        raise TypeError(f"{name} needs a masked process; remasking works with any")
    return times


def _most(process: Replacement, times: Times) -> Float[Array, " n"]:
    """``sigma_max``; 1 where nothing is visible, 0 in a step to the clean end."""
    a, left = process.survival(times[:-1]), process.noisiness(times[1:])
    return jnp.where(left < a, left / jnp.where(a > 0, a, 1.0), 1.0)


def _loop(process: Replacement, times: Times, on: float, off: float, visible: float) -> tuple[Times, Bool[Array, " n"]]:
    """Times of which some in the middle stay, and the steps that do: what time means outside is stretched."""
    rest = process.time(jnp.log(jnp.asarray(visible, times.dtype)))
    left = times / times[0]
    begin = rest + (times[0] - rest) * (left - on) / (1 - on)
    end = rest * left / off if off > 0 else jnp.zeros_like(left)
    stretched = jnp.where(left > on, begin, jnp.where(left < off, end, rest))
    inside = (left <= on) & (left >= off)
    return stretched, inside[:-1] & inside[1:]
