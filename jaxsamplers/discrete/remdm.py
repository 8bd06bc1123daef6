"""ReMDM: masked diffusion in which visible tokens are masked again, so that mistakes can be corrected.

With ``a = alpha(t)``, ``b = alpha(s)``, a step masks a visible token with probability ``sigma`` and turns a mask into a
token with ``(b - (1 - sigma) a) / (1 - a)``, which leaves the marginals as they are as long as

    sigma <= sigma_max = min(1, (1 - b) / a)

    cap       min(eta, sigma_max)
    rescale   eta sigma_max
    loop      as usual, but for a pause at one time, in which sigma = eta
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
from jaxsamplers.discrete.categorical import Categorical, categorical
from jaxsamplers.discrete.routing import Route, probabilities, route, take
from jaxsamplers.discrete.samplers import ancestral, exact_coefficients
from jaxsamplers.discrete.table import Rows, TokenTable, grid, needed, per_step, table, tokens

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int, Key

    from jaxsamplers.discrete.processes import Replacement

    Times = Float[Array, " n+1"]
    Tokens = Int[Array, "... length"]


def remdm_cap(process: Replacement, times: Times, *, sigma: float | Float[Array, " n"] = 0.02) -> TokenTable:
    """ReMDM-cap: visible tokens are masked with the same probability in every step that allows it; one call a step.

    Args:
        process: a masked one.
        times: ``n + 1`` decreasing times.
        sigma: the probability, a number or one a step; 0 is ``ancestral``.

    Raises:
        ValueError: a probability outside [0, 1] or not one a step, a schedule that is not allowed, or a process without
            masks.
    """
    checks.within("sigma", sigma, 0.0, 1.0)
    times = _masked_grid(process, times, "remdm_cap")
    sigma = per_step("sigma", sigma, len(times) - 1)
    return _table(process, times, jnp.minimum(sigma, _most(process, times)))


def remdm_rescale(process: Replacement, times: Times, *, share: float | Float[Array, " n"] = 0.1) -> TokenTable:
    """ReMDM-rescale: visible tokens are masked with a share of the largest probability there may be; one call a step.

    Args:
        process: a masked one.
        times: ``n + 1`` decreasing times.
        share: of ``sigma_max``, a number or one a step; 0 is ``ancestral``.

    Raises:
        ValueError: a share outside [0, 1] or not one a step, a schedule that is not allowed, or a process without
            masks.
    """
    checks.within("share", share, 0.0, 1.0)
    times = _masked_grid(process, times, "remdm_rescale")
    return _table(process, times, per_step("share", share, len(times) - 1) * _most(process, times))


def remdm_loop(
    process: Replacement, times: Times, *, at: int, loops: int, sigma: float | Float[Array, " loops"] = 0.02
) -> TokenTable:
    """ReMDM-loop: ancestral steps with a pause, during which tokens are masked and drawn again; one call a step.

    Args:
        process: a masked one.
        times: ``n + 1`` decreasing times.
        at: the number of the time at which the pause is made, from 1 to ``n - 1``; the authors' program waits at
            ``alpha = 0.9``.
        loops: steps of the pause, which come on top of the others.
        sigma: the probability with which visible tokens are masked in them, a number or one each.

    Raises:
        ValueError: numbers out of range, a schedule that is not allowed, or a process without masks.
    """
    checks.within("sigma", sigma, 0.0, 1.0)
    times = _masked_grid(process, times, "remdm_loop")
    checks.integer("at", at, low=1)
    if at > len(times) - 2:
        raise ValueError(
            f"at must be at most {len(times) - 2}, before the last of the {len(times) - 1} steps, got {at}"
        )
    checks.integer("loops", loops, low=0)
    times = jnp.concatenate([times[:at], jnp.repeat(times[at], loops), times[at:]])
    pause = jnp.zeros(len(times) - 1).at[at : at + loops].set(per_step("sigma", sigma, loops))
    return _table(process, times, jnp.minimum(pause, _most(process, times)))


def remdm_confidence(process: Replacement, times: Times) -> Confidence:
    """ReMDM-conf: of the visible tokens those that were drawn with little confidence; one call a step.

    Args:
        process: a masked one.
        times: ``n + 1`` decreasing times.

    Raises:
        ValueError: a schedule that is not allowed, or a process without masks.
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
        moved = take(self.process.noise, fold_in(key, state.step), x, self.route(row, x, estimate, drawn_with))
        certain = jnp.where(moved == x, drawn_with, (estimate.weight(moved) / estimate.total).astype(jnp.float32))
        return SolverState(moved, certain, key, state.step + 1)

    def route(
        self, row: ConfidenceRows, x: Tokens, estimate: Categorical, drawn_with: Float[Array, "... length"]
    ) -> Route:
        """Where each token may go in this row."""
        again = dataclasses.replace(row.step.step, refresh=self.refresh(row, x, drawn_with))
        return route(self.process, again, x, estimate).only(self.active)

    def law(
        self, row: ConfidenceRows, x: Tokens, logits: Float[Array, "... V"], drawn_with: Float[Array, "... length"]
    ) -> Float[Array, "... S"]:
        """The law of each token after this row, which is what ``step`` draws from, in whole vectors."""
        estimate = categorical(self.process.clean(logits, x))
        return probabilities(self.process, x, self.route(row, x, estimate, drawn_with))

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
        raise ValueError(f"{name} masks tokens, and this process has no mask: remasking works with any noise")
    return times


def _table(process: Replacement, times: Times, sigma: Float[Array, " n"]) -> TokenTable:
    clean, noise = exact_coefficients(process, times)  # the noise is for nothing here
    more = sigma * process.survival(times[:-1]) / process.noisiness(times[:-1])
    return table(process, times, clean + more, noise, sigma, exact=True)


def _most(process: Replacement, times: Times) -> Float[Array, " n"]:
    """``sigma_max``; 1 where nothing is visible, 0 in a step to the clean end."""
    a, left = process.survival(times[:-1]), process.noisiness(times[1:])
    return jnp.where(left < a, left / jnp.where(a > 0, a, 1.0), 1.0)
