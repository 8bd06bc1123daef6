"""Two numbers a row that any sampler of tokens can be given: how much it moves, and how sure it is of where.

    scaled      every expected number of moves times Phi     the rates, so the score: Q(Phi s) = Phi Q(s)
    tempered    every posterior to the power Phi             p^Phi / sum p^Phi, a temperature 1 / Phi

On a masked process, where the score at a mask is ``alpha / (1 - alpha) p``, the first changes *when* tokens appear and
not which, as another schedule would; the second changes which, and not when. ``js.learn.lsd`` learns either.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.core import Model, Sampler, SolverState
from jaxsamplers.discrete.categorical import wide
from jaxsamplers.discrete.ddpd import Plan
from jaxsamplers.discrete.table import TokenTable
from jaxsamplers.laws import pytree

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int, Key

    from jaxsamplers.discrete.processes import Replacement
    from jaxsamplers.discrete.routing import Route

    Tokens = Int[Array, "..."]


@pytree
class Rows:
    """A sampler's rows, each with its exponent."""

    exponent: Float[Array, " n"]
    inner: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tempered:
    """A sampler with every posterior to a power; made by ``tempered``.

    Attributes:
        sampler: any of this package.
        exponent: a power a row.
    """

    sampler: Any
    exponent: Float[Array, " n"]

    @property
    def rows(self) -> Rows:
        """The sampler's, with the exponents."""
        return Rows(self.exponent, self.sampler.rows)

    @property
    def process(self) -> Replacement:
        """The sampler's."""
        return self.sampler.process

    @property
    def active(self) -> Bool[Array, "..."] | None:
        """The sampler's."""
        return self.sampler.active

    def __len__(self) -> int:
        return self.exponent.shape[0]

    def __getitem__(self, rows: slice) -> Tempered:
        return Tempered(self.sampler[rows], self.exponent[rows])

    def init(self, x: Tokens, key: Key[Array, ...] | None) -> SolverState:
        """The sampler's."""
        return self.sampler.init(x, key)

    def step(self, state: SolverState, row: Rows, model: Model) -> SolverState:
        """The sampler's, of a model that is surer or less sure of itself."""
        return self.sampler.step(state, row.inner, lambda x, t: sharpen(model(x, t), row.exponent))

    def route(self, row: Rows, x: Tokens, logits: Float[Array, "... V"]) -> Route:
        """Where each token may go in this row."""
        return self.sampler.route(row.inner, x, sharpen(logits, row.exponent))

    def law(self, row: Rows, x: Tokens, logits: Float[Array, "... V"]) -> Float[Array, "... S"]:
        """The law of each token after this row."""
        return self.sampler.law(row.inner, x, sharpen(logits, row.exponent))


def tempered(sampler: Sampler, exponents: Float[Array, " n"]) -> Tempered:
    """A sampler that draws from ``p^Phi``, renormalised, instead of the posterior ``p``: row by row.

    Args:
        sampler: any of this package.
        exponents: one a row, above 0: above 1 for the likely tokens, below 1 for variety.

    Raises:
        ValueError: not one number a row, or numbers that are not above 0.
    """
    return Tempered(sampler, _one_a_row("exponents", sampler, exponents, above=True))


def scaled(sampler: TokenTable, factors: Float[Array, " n"]) -> TokenTable:
    """A table whose expected numbers of moves are multiplied, row by row.

    What moves for certain in a row still does with a factor above 1; a last row that cleans everything leaves noise
    with a factor below 1.

    Args:
        sampler: a table.
        factors: one a row, from 0.

    Raises:
        TypeError: a sampler that is no table.
        ValueError: not one number a row, or numbers below 0.
    """
    if not isinstance(sampler, TokenTable):
        raise TypeError(f"scaled needs a TokenTable, got a {type(sampler).__name__}")
    factors = _one_a_row("factors", sampler, factors, above=False)
    return dataclasses.replace(sampler, rows=scale(sampler.rows, factors))


def scale(rows: Any, factors: Float[Array, "..."]) -> Any:
    """One row of a table, or all."""
    step = rows.step
    return dataclasses.replace(
        rows, step=dataclasses.replace(step, clean=factors * step.clean, noise=factors * step.noise)
    )


def sharpen(logits: Any, exponent: Float[Array, ""]) -> Any:
    """Logits times a number; what is impossible stays so. Of a ``Plan``, what is drawn and not where."""
    if isinstance(logits, Plan):
        return dataclasses.replace(logits, logits=sharpen(logits.logits, exponent))
    logits = wide(logits)
    some = logits > -jnp.inf
    return jnp.where(some, exponent.astype(logits.dtype) * jnp.where(some, logits, 0.0), -jnp.inf)


def _one_a_row(name: str, sampler: Any, values: Any, *, above: bool) -> Float[Array, " n"]:
    values = jnp.asarray(values, jnp.result_type(float))
    count = jax.tree.leaves(sampler.rows)[0].shape[0]
    if values.shape != (count,):
        raise ValueError(f"{name} must be one number for each of the {count} rows, got shape {values.shape}")
    checks.within(name, values, 0.0, above=above)
    return values
