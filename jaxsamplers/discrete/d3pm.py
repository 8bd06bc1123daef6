"""Ancestral sampling where noise is any table of matrices: the law of ``x_s`` as a whole vector for each position.

    q(x_s | x_t) = q(x_t | x_s) sum_v p(v | x_t) q(x_s | v) / q(x_t | v)

with the Bayes posterior ``p`` (``processes.posterior``). D3PM's networks are leave-one-out: the authors use
``sum_v p(v) q(x_t, x_s | v)``, which divides by no ``q(x_t | v)``; ``leave_one_out=True`` does the same, exactly.
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
from jaxsamplers.discrete.matrices import Matrices
from jaxsamplers.discrete.processes import posterior
from jaxsamplers.discrete.routing import Route, take
from jaxsamplers.discrete.table import needed, tokens
from jaxsamplers.laws import where_positive
from jaxsamplers.schedules.grid import validate

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int, Key

    Times = Float[Array, " n+1"]
    Tokens = Int[Array, "..."]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """One row per network call.

    Attributes:
        time: what the network is shown.
        following: where the step leads.
        greedy: whether every token becomes the likeliest clean one.
    """

    time: Float[Array, " n"]
    following: Float[Array, " n"]
    greedy: Bool[Array, " n"]


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["rows", "process", "active"], meta_fields=["leave_one_out"]
)
@dataclasses.dataclass(frozen=True)
class D3PM:
    """A sampler of tokens; see the module's docstring.

    Attributes:
        rows: the times.
        process: the matrices.
        active: the positions that may move, all by default; see ``only``.
        leave_one_out: what the network's posterior is.
    """

    rows: Rows
    process: Matrices
    active: Bool[Array, "..."] | None = None
    leave_one_out: bool = False

    def __len__(self) -> int:
        return self.rows.time.shape[0]

    def __getitem__(self, rows: slice) -> D3PM:
        return take_rows(self, rows)

    def init(self, x: Tokens, key: Key[Array, ...] | None) -> SolverState:
        """Tokens and a key; nothing is remembered."""
        return new_state(tokens(x, self.process.states), (), needed(key))

    def step(self, state: SolverState, row: Rows, model: Model) -> SolverState:
        """One network call and a move of every token."""
        assert state.key is not None
        law = self.law(row, state.x, self.process.clean(model(state.x, row.time), state.x))
        whole = categorical(where_positive(jnp.log, law, -jnp.inf))
        others = whole.without(state.x)
        there = Route(others.total / whole.total, jnp.zeros(state.x.shape), others).only(self.active)
        moved = take(self.process.noise, fold_in(state.key, state.step), state.x, there)
        return SolverState(moved, (), state.key, state.step + 1)

    def law(self, row: Rows, x: Tokens, logits: Float[Array, "... V"]) -> Float[Array, "... V"]:
        """The law of each token after this row."""
        clean = jax.nn.softmax(logits, axis=-1)
        if self.leave_one_out:
            clean = clean * self.process.likelihood(x, row.time)
            clean = clean / clean.sum(-1, keepdims=True)
        law = posterior(self.process, clean, x, row.time, row.following)
        return jnp.where(row.greedy, jax.nn.one_hot(jnp.argmax(clean, axis=-1), self.process.vocab), law)


def d3pm(process: Matrices, times: Times, *, prediction: str = "leave_one_out", final: str = "sample") -> D3PM:
    """D3PM's ancestral sampler for any table of matrices; one call a step.

    Args:
        process: from ``transition_matrices``.
        times: ``n + 1`` decreasing times; ``schedules.uniform(process, n)`` takes each of the table's ``n`` steps.
        prediction: what the network gives logits of, "leave_one_out" as the authors' do, or "bayes".
        final: "sample", or "greedy", the likeliest token in the last step.

    Raises:
        ValueError: an unknown ``prediction`` or ``final``, or a schedule that is not allowed.
        TypeError: a process without a table; ``ancestral`` is for those.
    Source: Austin et al. 2021, D3PM (arXiv 2107.03006), eq. 3 and 4, and their code. It adds 1e-6 before
        logarithms and ends with the likeliest of the network's own logits; we do not, and of the Bayes posterior's.
    """
    checks.one_of("prediction", prediction, ("leave_one_out", "bayes"))
    checks.one_of("final", final, ("sample", "greedy"))
    if not isinstance(process, Matrices):
        raise TypeError(f"d3pm needs a process from transition_matrices, got {process!r:.60}; see ancestral")
    times = validate(process, times)
    count = len(times) - 1
    greedy = (jnp.arange(count) == count - 1) & (final == "greedy")
    return D3PM(Rows(times[:-1], times[1:], greedy), process, None, prediction == "leave_one_out")
