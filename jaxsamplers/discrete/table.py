"""A sampler of tokens is a table: two destinations' coefficients per network call, and one step that reads them.

The step is ``routing.py``'s. What samplers differ in are numbers, so two samplers of one kind share one compiled
program, and the numbers can be differentiated, learned, sliced and saved, as those of the Gaussian solvers.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.core import Model, S, SolverState, fold_in, new_state, take_rows
from jaxsamplers.discrete.categorical import categorical
from jaxsamplers.discrete.leaps import at_most_one, rules
from jaxsamplers.discrete.processes import Replacement
from jaxsamplers.discrete.routing import Coefficients, Route, probabilities, route, take
from jaxsamplers.schedules.grid import validate

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int, Key

    Times = Float[Array, " n+1"]
    Tokens = Int[Array, "..."]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """The numbers of a table, one row per network call.

    Attributes:
        time: what the network is shown.
        step: the coefficients; see ``routing.py``.
        exact: whether the coefficients are probabilities of one move, so that no rule is needed.
        greedy: whether every token that may move becomes the likeliest clean one.
    """

    time: Float[Array, " n"]
    step: Coefficients
    exact: Bool[Array, " n"]
    greedy: Bool[Array, " n"]


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["rows", "process", "active"], meta_fields=["rule", "ends_greedily"]
)
@dataclasses.dataclass(frozen=True)
class TokenTable:
    """A sampler of tokens; see the module's docstring.

    Attributes:
        rows: the numbers.
        process: what the tokens' noise is.
        active: the positions that may move, all by default; see ``only``.
        rule: how expected numbers of moves become probabilities, a name in ``leaps.rules``.
        ends_greedily: whether any row is greedy.
    """

    rows: Rows
    process: Replacement
    active: Bool[Array, "..."] | None = None
    rule: str = "euler"
    ends_greedily: bool = False

    def __len__(self) -> int:
        return self.rows.time.shape[0]

    def __getitem__(self, rows: slice) -> TokenTable:
        return take_rows(self, rows)

    def init(self, x: Tokens, key: Key[Array, ...] | None) -> SolverState:
        """Tokens and a key; nothing is remembered."""
        return new_state(tokens(x, self.process.states), (), needed(key))

    def step(self, state: SolverState, row: Rows, model: Model) -> SolverState:
        """One network call, and a move of every token."""
        logits = self.process.clean(model(state.x, row.time), state.x)
        assert state.key is not None
        moved = take(self.process.noise, fold_in(state.key, state.step), state.x, self.route(row, state.x, logits))
        if self.ends_greedily:
            moved = jax.lax.cond(row.greedy, lambda: self._likeliest(state.x, logits), lambda: moved)
        return SolverState(moved, (), state.key, state.step + 1)

    def route(self, row: Rows, x: Tokens, logits: Float[Array, "... V"]) -> Route:
        """Where each token may go in this row."""
        there = route(self.process, row.step, x, categorical(logits)).only(self.active)
        leap = rules[self.rule]
        return there.rescaled(lambda n: jnp.where(row.exact, at_most_one(n), leap(n)))

    def law(self, row: Rows, x: Tokens, logits: Float[Array, "... V"]) -> Float[Array, "... S"]:
        """The law of each token after this row, which is what ``step`` draws from, in whole vectors."""
        law = probabilities(self.process, x, self.route(row, x, logits))
        if not self.ends_greedily:
            return law
        return jnp.where(row.greedy, jax.nn.one_hot(self._likeliest(x, logits), self.process.states), law)

    def _likeliest(self, x: Tokens, logits: Float[Array, "... V"]) -> Tokens:
        best = jnp.argmax(logits, axis=-1).astype(x.dtype)
        may = self.process.noise.probability(x) > 0 if self.process.noise.absorbing else jnp.ones(x.shape, bool)
        return jnp.where(may if self.active is None else may & self.active, best, x)


def table(
    process: Replacement,
    times: Times,
    clean: Float[Array, " n"],
    noise: Float[Array, " n"] | float = 0.0,
    refresh: Float[Array, " n"] | float = 0.0,
    *,
    rule: str = "euler",
    exact: bool = False,
) -> TokenTable:
    """A table from its coefficients, which are read at ``times[:-1]``."""
    count, t = len(times) - 1, times[:-1]
    full = lambda value: jnp.broadcast_to(jnp.asarray(value, times.dtype), (count,))
    step = Coefficients(full(clean), full(noise), full(refresh), process.survival(t), process.noisiness(t))
    return TokenTable(Rows(t, step, jnp.full(count, exact), jnp.full(count, False)), process, None, rule)


def only(sampler: S, active: Bool[Array, "..."]) -> S:
    """The same sampler for the positions in ``active``; the others keep the tokens they start with.

    For prompts and infilling (``active = ~known``, start from ``jnp.where(known, given, noise)``) and for sequences of
    several lengths (``active = jnp.arange(length) < lengths[:, None]``, the rest being padding).

    Args:
        sampler: any of this package.
        active: boolean, of the tokens' shape or one that broadcasts to it.

    Raises:
        ValueError: ``active`` is not boolean.
    """
    if not jnp.issubdtype(jnp.result_type(active), jnp.bool_):
        raise ValueError(f"active must be boolean, one entry a position, got {jnp.result_type(active)}")
    if hasattr(sampler, "sampler"):  # a transform of another
        return dataclasses.replace(sampler, sampler=only(sampler.sampler, active))  # type: ignore[type-var]
    return dataclasses.replace(sampler, active=active)  # type: ignore[type-var]


def tokens(x: Tokens, states: int) -> Tokens:
    """The starting tokens, after checks.

    Raises:
        ValueError: not integers, integers that cannot hold every state, or out of range.
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.integer):
        raise ValueError(f"tokens must be integers, got {x.dtype}: start from process.prior(key, shape)")
    if jnp.iinfo(x.dtype).max < states - 1:
        raise ValueError(f"tokens must hold the states 0 to {states - 1}, the mask among them; {x.dtype} cannot")
    known = checks.concrete(x)
    if known is not None and known.size and not (known.min() >= 0 and known.max() < states):
        raise ValueError(f"tokens must be from 0 to {states - 1}, got {known.min()} to {known.max()}")
    return x


def needed(key: Key[Array, ...] | None) -> Key[Array, ...]:
    """The key, which every sampler of tokens needs.

    Raises:
        ValueError: there is none.
    """
    if key is None:
        raise ValueError("this sampler draws tokens: give it a PRNG key, such as jax.random.key(0)")
    return key


def per_step(name: str, value: float | Float[Array, "..."], steps: int) -> Float[Array, "..."]:
    """An option that is a number or one a step, after checks.

    Raises:
        ValueError: another shape.
    """
    value = jnp.asarray(value)
    if value.shape not in ((), (steps,)):
        raise ValueError(f"{name} must be a number or {steps} of them, one a step, got shape {value.shape}")
    return value


def grid(process: Replacement, times: Times, name: str) -> Times:
    """A schedule after checks: on a process that replaces tokens.

    Raises:
        TypeError: a process of another kind.
        ValueError: times that are no schedule.
    """
    if not isinstance(process, Replacement):
        raise TypeError(f"{name} needs a masked, uniform or marginal process, got {process!r:.60}")
    return validate(process, times)
