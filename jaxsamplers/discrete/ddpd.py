"""Plan, then denoise: a planner says which positions are noise, a denoiser what one of them was.

With noise that looks like data, ``x_t^i`` is either the clean token or a draw of ``pi``. The reverse rates of discrete
flow matching are a product,

    R(x^i becomes v)  =  -alpha' / (1 - alpha)   P(i is noise | x_t)   p(x0_i = v | x_t, i is noise)

so that the next event takes a position in proportion to the first probability, and its token from the second, whatever
the time until then. A step is one such event of every sequence. Errors are seen as noise and drawn again, and steps
may be more than there are positions.

One network that knows the Bayes posterior knows both: given that position ``i`` is noise, ``x_t^i`` says nothing, so
its token is drawn from the leave-one-out posterior ``q``, and the odds of noise are ``(1 - alpha) pi : alpha q`` at it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxsamplers import checks
from jaxsamplers.core import Model, SolverState, fold_in, new_state, take_rows
from jaxsamplers.denoisers import as_pytree
from jaxsamplers.discrete.categorical import categorical, wide
from jaxsamplers.discrete.denoisers import from_bayes
from jaxsamplers.discrete.first_hitting import Rows
from jaxsamplers.discrete.processes import Replacement
from jaxsamplers.discrete.randomness import BLOCK, ORDER, ROUTE, TOKEN, bits
from jaxsamplers.discrete.table import needed, tokens
from jaxsamplers.laws import pytree
from jaxsamplers.processes import expand

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int, Key

    Tokens = Int[Array, "... length"]


@pytree
class Plan:
    """What a model of this sampler returns.

    Attributes:
        noisy: log-odds that a position is noise.
        logits: of the clean token at each position, given that it is noise.
    """

    noisy: Float[Array, "... length"]
    logits: Float[Array, "... length V"]


def planned(planner: Callable[..., Any], denoiser: Callable[..., Any]) -> Partial:
    """A model from two networks, ``(tokens, t) -> Plan``.

    Args:
        planner: ``(tokens, t, **extra) -> [*tokens.shape]``, log-odds that a position is noise.
        denoiser: ``(tokens, t, **extra) -> [*tokens.shape, vocab]``, logits of the clean token given that it is; a
            ``leave_one_out`` network is one.
    """
    return Partial(_both, as_pytree(planner), as_pytree(denoiser))


def planned_from(process: Replacement, model: Callable[..., Any]) -> Partial:
    """A model from one network that knows the Bayes posterior, ``(tokens, t) -> Plan``.

    Args:
        process: uniform or marginal.
        model: ``(tokens, t, **extra) -> [*tokens.shape, vocab]``, logits of the Bayes posterior.

    Raises:
        TypeError: a process with masks, or of another kind.
    """
    _looks_like_data(process, "planned_from")
    return Partial(_from_one, process, as_pytree(model))


@functools.partial(jax.tree_util.register_dataclass, data_fields=["rows", "process", "active"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Planned:
    """A sampler of one event a row; what is remembered is the time that each sequence seems to be at.

    Attributes:
        rows: the events.
        process: uniform or marginal.
        active: the positions that may move, all by default; see ``only``.
    """

    rows: Rows
    process: Replacement
    active: Bool[Array, "..."] | None = None

    def __len__(self) -> int:
        return self.rows.event.shape[0]

    def __getitem__(self, rows: slice) -> Planned:
        return take_rows(self, rows)

    def init(self, x: Tokens, key: Key[Array, ...] | None) -> SolverState:
        """All at ``t_max``."""
        x = tokens(x, self.process.states)
        start = jnp.asarray(self.process.t_max, jnp.result_type(float))
        return new_state(x, jnp.broadcast_to(start, x.shape[:-1]), needed(key))

    def step(self, state: SolverState, row: Rows, model: Model) -> SolverState:
        """The next event of every sequence; none where nothing can be noise."""
        x, key = state.x, state.key
        assert key is not None
        word = lambda role, like: bits(fold_in(fold_in(key, state.step), role), like.shape)
        chance, logits = self.chances(x, model(x, state.memory))
        log_chance = jnp.where(chance > 0, jnp.log(jnp.where(chance > 0, chance, 1.0)), -jnp.inf)
        first = x[..., 0]
        place = categorical(log_chance).draw(word(ORDER, first), word(ROUTE, first))[..., None]
        there = categorical(jnp.take_along_axis(logits, place[..., None], axis=-2))
        drawn = there.draw(word(BLOCK, place), word(TOKEN, place)).astype(x.dtype)
        drawn = jnp.where((chance > 0).any(-1, keepdims=True), drawn, jnp.take_along_axis(x, place, axis=-1))
        moved = jnp.put_along_axis(x, place, drawn, axis=-1, inplace=False)
        return SolverState(moved, self.time(chance).astype(state.memory.dtype), key, state.step + 1)

    def chances(self, x: Tokens, plan: Plan) -> tuple[Float[Array, "... length"], Float[Array, "... length V"]]:
        """How likely each position is noise, 0 where it may not move, and logits of what it was.

        Raises:
            TypeError: a model that returns no ``Plan``.
            ValueError: arrays of other shapes.
        """
        if not isinstance(plan, Plan):
            raise TypeError(f"ddpd needs a model that returns a Plan: planned(planner, denoiser), got {plan!r:.60}")
        if jnp.shape(plan.noisy) != x.shape:
            raise ValueError(f"a planner must return one number a token, {x.shape}, got {jnp.shape(plan.noisy)}")
        chance = jax.nn.sigmoid(wide(plan.noisy))
        chance = chance if self.active is None else jnp.where(self.active, chance, 0.0)
        return chance, self.process.clean(plan.logits, x)

    def time(self, chance: Float[Array, "... length"]) -> Float[Array, "..."]:
        """When as many positions are noise as are expected to be after one more is clean, or half of one."""
        may = jnp.broadcast_to(True if self.active is None else self.active, chance.shape).sum(-1)
        share = jnp.maximum(chance.sum(-1) - 1, 0.5) / jnp.maximum(may, 1)
        most = self.process.noisiness(self.process.t_max)
        return self.process.time(jnp.log1p(-jnp.clip(share, 0.0, most)))


def ddpd(process: Replacement, events: int) -> Planned:
    """Denoising with planned denoising: one position a step, in proportion to how likely it is noise; one call a step.

    The network, shown a time per sequence ``[batch]``, is asked for a ``Plan``: give the model as
    ``planned(planner, denoiser)`` or ``planned_from(process, model)``. The time is the one at which as many positions
    would be noise as the planner expected; networks that do not look at it are as good.

    Args:
        process: uniform or marginal.
        events: how many tokens are drawn; more than there are positions to correct some.

    Raises:
        ValueError: fewer than one event.
        TypeError: a process with masks, which need no planner, or of another kind.
    Source: Liu et al. 2024, Think while you generate (arXiv 2410.06264), proposition 3.1 and algorithm 1, as their
        program runs it: an event in each step, and time from the planner. It also has denoisers of masks, which it
        shows masks in place of likely noise, and a last fill; these are not here.
    """
    checks.integer("events", events, low=1)
    _looks_like_data(process, "ddpd")
    return Planned(Rows(jnp.arange(events)), process)


def _both(planner: Callable[..., Any], denoiser: Callable[..., Any], x: Tokens, t: Array, **extra: Any) -> Plan:
    return Plan(planner(x, t, **extra), denoiser(x, t, **extra))


def _from_one(process: Replacement, model: Callable[..., Any], x: Tokens, t: Array, **extra: Any) -> Plan:
    logits = jax.nn.log_softmax(from_bayes(process, "leave_one_out", process.clean(model(x, t, **extra), x), x, t))
    here = jnp.take_along_axis(logits, x[..., None], axis=-1)[..., 0] + expand(process.log_survival(t), x)
    return Plan(jnp.log(expand(process.noisiness(t), x) * process.noise.probability(x)) - here, logits)


def _looks_like_data(process: Replacement, name: str) -> None:
    if not isinstance(process, Replacement) or process.noise.absorbing:
        raise TypeError(f"{name} needs a uniform or marginal process: of masks it is known which are noise")
