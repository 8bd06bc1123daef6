"""Second-order leaps: rates at two times, combined before the tokens move.

With reverse rates ``R(x, t)`` towards every token, step ``h`` from ``t``, and a tau-leap of ``theta h`` to ``x*``
first,

    trapezoidal    from x*, during (1 - theta) h:    ( a1 R(x*, t - theta h) - a2 R(x, t) )+
                   a1 = 1 / (2 theta (1 - theta)),   a2 = (theta^2 + (1 - theta)^2) / (2 theta (1 - theta))
    RK-2           from x, during h:                 ( R(x*, t - theta h) / (2 theta) + (1 - 1 / (2 theta)) R(x, t) )+

Rates are those towards a token, whatever the token now: a rate does not move with ``x*``. Where the first leap moved a
token, which it does with probability of order ``h``, the positive part cuts, so the law converges with order one in the
end; what the combination gains is the constant, tenfold and more.

Two rows a step, one call each; the last step, which may end at 0 where rates are infinite, is ``ancestral``'s, one
call. Between the rows of a step the rates are kept: as much memory as the logits.
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
from jaxsamplers.discrete.leaps import at_most_one, rules
from jaxsamplers.discrete.processes import Replacement
from jaxsamplers.discrete.routing import Coefficients, Route, probabilities, route, take
from jaxsamplers.discrete.samplers import exact_coefficients, rate_coefficients
from jaxsamplers.discrete.table import grid, needed, tokens
from jaxsamplers.laws import where_positive

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int, Key

    Times = Float[Array, " n+1"]
    Tokens = Int[Array, "..."]
    Rates = Float[Array, "... V"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """The numbers, one row per network call.

    Attributes:
        time: what the network is shown.
        step: coefficients of the rates; see ``routing.py``.
        now: in front of this row's rates.
        before: in front of the kept ones, which are subtracted.
        back: whether to move from the kept tokens instead of the present ones.
        keep: whether this row's tokens and rates are kept.
        exact: whether the coefficients are probabilities of one move, so that no rule is needed.
    """

    time: Float[Array, " n"]
    step: Coefficients
    now: Float[Array, " n"]
    before: Float[Array, " n"]
    back: Bool[Array, " n"]
    keep: Bool[Array, " n"]
    exact: Bool[Array, " n"]


@functools.partial(jax.tree_util.register_dataclass, data_fields=["rows", "process", "active"], meta_fields=["rule"])
@dataclasses.dataclass(frozen=True)
class TwoStage:
    """A sampler of two calls a step; its memory is ``(tokens, rates)`` of the first.

    Attributes:
        rows: the numbers.
        process: what the tokens' noise is.
        active: the positions that may move, all by default; see ``only``.
        rule: how expected numbers of moves become probabilities, a name in ``leaps.rules``.
    """

    rows: Rows
    process: Replacement
    active: Bool[Array, "..."] | None = None
    rule: str = "clock"

    def __len__(self) -> int:
        return self.rows.time.shape[0]

    def __getitem__(self, rows: slice) -> TwoStage:
        return take_rows(self, rows)

    def init(self, x: Tokens, key: Key[Array, ...] | None) -> SolverState:
        """Tokens and a key; nothing kept yet."""
        x = tokens(x, self.process.states)
        rates = jnp.zeros((*x.shape, self.process.vocab), self.rows.time.dtype)
        return new_state(x, (x, rates), needed(key))

    def step(self, state: SolverState, row: Rows, model: Model) -> SolverState:
        """One network call and a leap."""
        assert state.key is not None
        rates = self.rates(row, state.x, model(state.x, row.time))
        here, there = self.route(row, state.x, rates, state.memory)
        moved = take(self.process.noise, fold_in(state.key, state.step), here, there)
        kept = jax.tree.map(lambda new, old: jnp.where(row.keep, new, old), (state.x, rates), state.memory)
        return SolverState(moved, kept, state.key, state.step + 1)

    def rates(self, row: Rows, x: Tokens, logits: Float[Array, "... V"]) -> Rates:
        """Reverse rates towards every clean token; 0 towards a token itself."""
        there = route(self.process, row.step, x, categorical(self.process.clean(logits, x)))
        size = there.clean + there.noise
        law = probabilities(self.process, x, there.rescaled(lambda n: 1 / jnp.where(n > 0, n, 1.0)))
        away = jnp.where(jnp.arange(self.process.states) == x[..., None], 0.0, law) * size[..., None]
        return away[..., : self.process.vocab].astype(row.time.dtype)

    def route(self, row: Rows, x: Tokens, rates: Rates, kept: tuple[Tokens, Rates]) -> tuple[Tokens, Route]:
        """The tokens to move from, and where each may go."""
        here = jnp.where(row.back, kept[0], x)
        total = jnp.maximum(row.now * rates - row.before * kept[1], 0.0)
        total = jnp.where(jnp.arange(self.process.vocab) == here[..., None], 0.0, total)
        law = categorical(where_positive(jnp.log, total, -jnp.inf))
        there = Route(total.sum(-1), jnp.zeros(x.shape, total.dtype), law)
        leap = rules[self.rule]
        return here, there.only(self.active).rescaled(lambda n: jnp.where(row.exact, at_most_one(n), leap(n)))

    def law(self, row: Rows, x: Tokens, logits: Float[Array, "... V"], kept: tuple[Tokens, Rates]) -> Rates:
        """The law of each token after this row, which is what ``step`` draws from, in whole vectors."""
        return probabilities(self.process, *self.route(row, x, self.rates(row, x, logits), kept))


def theta_trapezoidal(process: Replacement, times: Times, *, theta: float = 0.5, leap: str = "clock") -> TwoStage:
    """The theta-trapezoidal method; two calls a step, one in the last.

    Args:
        process: masked, uniform or marginal; its rates must be finite at the first time.
        times: ``n + 1`` decreasing times.
        theta: where in the step the second rates are taken, inside (0, 1); the authors recommend 0.3 to 0.5.
        leap: "clock" or "reject", as in ``tau_leaping``; the authors' is "reject", "clock" is several times more
            accurate.

    Raises:
        ValueError: ``theta`` outside (0, 1), an unknown ``leap``, infinite rates, or a schedule that is not allowed.
    Source: Ren et al. 2025, Fast solvers for discrete diffusion models (arXiv 2502.00234), algorithm 2.
    """
    checks.within("theta", theta, 0.0, above=True)
    checks.within("1 - theta", 1 - theta, 0.0, above=True)
    weight = (theta**2 + (1 - theta) ** 2) / (2 * theta)
    return _two_stage(process, times, theta, leap, 1 / (2 * theta), weight, False, "theta_trapezoidal")


def theta_rk2(process: Replacement, times: Times, *, theta: float = 0.5, leap: str = "clock") -> TwoStage:
    """The theta-RK-2 method; two calls a step, one in the last. It gains little over ``tau_leaping``.

    Args and errors as ``theta_trapezoidal``, but ``theta`` may be 1.
    Source: Ren et al. 2025, Fast solvers for discrete diffusion models (arXiv 2502.00234), algorithm 1.
    """
    checks.within("theta", theta, 0.0, 1.0, above=True)
    return _two_stage(process, times, theta, leap, 1 / (2 * theta), 1 / (2 * theta) - 1, True, "theta_rk2")


def _two_stage(
    process: Replacement, times: Times, theta: float, leap: str, now: float, before: float, back: bool, name: str
) -> TwoStage:
    checks.one_of("leap", leap, [rule for rule in rules if rule != "euler"])
    times = grid(process, times, name)
    steps = (times[:-1] - times[1:])[:-1]
    pairs = lambda first, second: jnp.stack(jnp.broadcast_arrays(first, second), axis=1).reshape(-1)
    t = pairs(times[:-2], times[:-2] - theta * steps)
    time, flags = jnp.append(t, times[-2]), jnp.full(steps.shape, True)
    rates = rate_coefficients(process, t)
    last = exact_coefficients(process, times[-2:])
    clean, noise = (jnp.append(a, b) for a, b in zip(rates, last, strict=True))
    step = Coefficients(clean, noise, jnp.zeros_like(time), process.survival(time), process.noisiness(time))
    rows = Rows(
        time,
        step,
        jnp.append(pairs(theta * steps, now * steps), 1.0),
        jnp.append(pairs(jnp.zeros_like(steps), before * steps), 0.0),
        jnp.append(pairs(~flags, flags if back else ~flags), False),
        jnp.append(pairs(flags, ~flags), False),
        jnp.append(pairs(~flags, ~flags), True),
    )
    return TwoStage(rows, process, None, leap)
