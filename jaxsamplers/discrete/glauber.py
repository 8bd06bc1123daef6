"""One position at a time, drawn anew given all others.

The *leave-one-out* posterior of a position is what a network says where it sees a mask, and what follows from its Bayes
posterior where it sees noise (``denoisers.py``). A step draws one position, whatever token is there now:

    x^i   becomes   a draw from the leave-one-out posterior with probability alpha, noise with probability 1 - alpha

which is the conditional of the law of ``x_t``, so that this law stays as it is (Glauber dynamics, Gibbs sampling, heat
bath). ``glauber`` repeats it at one level: a chain that forgets its start, or a repair of finished sequences.
``glauber_generative`` lowers the level from sweep to sweep: its noise process hit one position a step, in an order that
is known, and each step undoes one of those; with an exact posterior it is exact.
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
from jaxsamplers.discrete.categorical import categorical
from jaxsamplers.discrete.denoisers import from_bayes, to_bayes
from jaxsamplers.discrete.noises import Mask
from jaxsamplers.discrete.processes import Replacement
from jaxsamplers.discrete.randomness import BLOCK, MOVE, NOISE_BLOCK, NOISE_TOKEN, ORDER, TOKEN, bits, happens
from jaxsamplers.discrete.table import grid, needed, tokens
from jaxsamplers.laws import where_positive
from jaxsamplers.processes import expand

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int, Key

    Times = Float[Array, " n+1"]
    Tokens = Int[Array, "... length"]
    Logits = Float[Array, "... V"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """One row per network call.

    Attributes:
        time: what the network is shown.
        place: which of the positions that may move does, counted around; -1 for any of them alike.
        survival: the probability of a clean token.
    """

    time: Float[Array, " n"]
    place: Int[Array, " n"]
    survival: Float[Array, " n"]


@functools.partial(jax.tree_util.register_dataclass, data_fields=["rows", "process", "active"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Glauber:
    """A sampler of one position a row; see the module's docstring.

    Attributes:
        rows: the numbers.
        process: what the tokens' noise is.
        active: the positions that may move, all by default; see ``only``. No call is spent on others.
    """

    rows: Rows
    process: Replacement
    active: Bool[Array, "..."] | None = None

    def __len__(self) -> int:
        return self.rows.time.shape[0]

    def __getitem__(self, rows: slice) -> Glauber:
        return take_rows(self, rows)

    def init(self, x: Tokens, key: Key[Array, ...] | None) -> SolverState:
        """Tokens and a key; nothing is remembered."""
        return new_state(tokens(x, self.process.states), (), needed(key))

    def step(self, state: SolverState, row: Rows, model: Model) -> SolverState:
        """One network call, one position."""
        x, key = state.x, state.key
        assert key is not None
        word = lambda role, like: bits(fold_in(fold_in(key, state.step), role), like.shape)
        place, some = self.place(row, x, word(ORDER, x[..., 0]))
        there = categorical(self.left_out(row, x, place, model(self.shown(x, place), row.time)))
        clean = there.draw(word(BLOCK, place), word(TOKEN, place))
        noise = self.process.noise.draw(word(NOISE_BLOCK, place), word(NOISE_TOKEN, place), None)
        drawn = jnp.where(happens(word(MOVE, place), row.survival), clean, noise).astype(x.dtype)
        moved = jnp.where((jnp.arange(x.shape[-1]) == place[..., None]) & some[..., None], drawn[..., None], x)
        return SolverState(moved, (), key, state.step + 1)

    def place(self, row: Rows, x: Tokens, random: Array) -> tuple[Int[Array, "..."], Bool[Array, "..."]]:
        """Which position of each sequence is drawn, and whether there is any."""
        may = jnp.broadcast_to(True if self.active is None else self.active, x.shape)
        count = jnp.maximum(may.sum(-1), 1)
        rank = jnp.where(row.place < 0, (random % count.astype(jnp.uint32)).astype(jnp.int32), row.place % count)
        return jnp.argmax(jnp.cumsum(may, axis=-1) > rank[..., None], axis=-1), may.any(-1)

    def shown(self, x: Tokens, place: Int[Array, "..."]) -> Tokens:
        """What the network is shown: where noise is a mask, one in the place to draw."""
        noise = self.process.noise
        return jnp.where(jnp.arange(x.shape[-1]) == place[..., None], noise.mask, x) if isinstance(noise, Mask) else x

    def left_out(self, row: Rows, x: Tokens, place: Int[Array, "..."], output: Logits) -> Logits:
        """Logits of the leave-one-out posterior at the place, from the network's output on what it was shown."""
        here = jnp.take_along_axis(x, place[..., None], axis=-1)
        logits = jnp.take_along_axis(self.process.clean(output, x), place[..., None, None], axis=-2)
        return from_bayes(self.process, "leave_one_out", logits, here, row.time)[..., 0, :]

    def law(self, row: Rows, x: Tokens, place: Int[Array, "..."], output: Logits) -> Float[Array, "... S"]:
        """The law of the token at the place after this row, which is what ``step`` draws from, in whole vectors."""
        clean = categorical(self.left_out(row, x, place, output)).probabilities()
        clean = jnp.pad(clean, [(0, 0)] * (clean.ndim - 1) + [(0, self.process.states - clean.shape[-1])])
        pi = self.process.noise.probability(jnp.arange(self.process.states))
        return row.survival * clean + (1 - row.survival) * pi


def glauber(process: Replacement, steps: int, *, time: float, scan: str = "random") -> Glauber:
    """Glauber dynamics (Gibbs sampling): one position a step, drawn given all others; one call a step.

    On a masked process tokens stay clean and the law of the data is left as it is; on others that of ``x_t`` at
    ``time``. Start from clean tokens, or masks, or from another sampler's output to repair it.

    Args:
        process: masked, uniform or marginal.
        steps: how many.
        time: what the network is shown; a masked one that was trained with times knows those where one token of a
            sequence is a mask, ``process.time(log1p(-1 / length))``.
        scan: "random", any position alike, each sequence by itself; or "cyclic", from left to right again and again.

    Raises:
        ValueError: fewer than one step, an unknown scan, or a time outside the process's, 0 included unless masked.
        TypeError: a process of another kind.
    Source: Geman & Geman 1984, Stochastic relaxation; with masked networks Wang & Cho 2019 (arXiv 1902.04094).
    """
    checks.integer("steps", steps, low=1)
    checks.one_of("scan", scan, ("random", "cyclic"))
    _replaces(process, "glauber")
    masked = process.noise.absorbing
    checks.within("time", time, process.t_min, process.t_max, above=not masked)
    place = jnp.full(steps, -1) if scan == "random" else jnp.arange(steps)
    shown = jnp.full(steps, time, jnp.result_type(float))
    survival = jnp.ones_like(shown) if masked else process.survival(shown)
    return Glauber(Rows(shown, place.astype(jnp.int32), survival), process)


def glauber_generative(
    process: Replacement, times: Times, length: int, *, order: Int[Array, " length"] | None = None
) -> Glauber:
    """The Glauber generative model: sweeps over all positions, each from one time to the next; ``n length`` calls.

    In step ``j`` of a sweep from ``t`` to ``s`` the first ``j`` positions of the order are at ``s`` and the others at
    ``t``; the network is shown ``t + (s - t) j / length``, from which one that was trained on it knows the step. With
    two times and masks it draws from left to right. Of other noise let a network be "leave_one_out" or a classifier:
    one of the Bayes posterior would have to count the token in the place to draw as noise of the time it is shown.

    Args:
        process: masked, uniform or marginal.
        times: ``n + 1`` decreasing times, one more than sweeps.
        length: of the sequences.
        order: in which positions are visited, from left to right by default.

    Raises:
        ValueError: no positions, an order that is no permutation, or a schedule that is not allowed.
        TypeError: a process of another kind.
    Source: Varma, Nagaraj & Shanmugam 2024, Glauber generative model (arXiv 2405.17035). Their network
        classifies: wrap it by ``signal_classifier``. Their noise hits one position a step, often to no effect; here it
        is given by the process's times.
    """
    checks.integer("length", length, low=1)
    times = grid(process, times, "glauber_generative")
    place = jnp.arange(length) if order is None else jnp.asarray(order)
    known = checks.concrete(place)
    if place.shape != (length,) or (known is not None and sorted(known.tolist()) != list(range(length))):
        raise ValueError(f"order must be the numbers from 0 to {length - 1} in some order, got {order}")
    sweeps = len(times) - 1
    shown = (times[:-1, None] + (times[1:] - times[:-1])[:, None] * jnp.arange(length) / length).reshape(-1)
    survival = jnp.repeat(process.survival(times[1:]), length)
    return Glauber(Rows(shown, jnp.tile(place.astype(jnp.int32), sweeps), survival), process)


def signal_classifier(apply: Callable[..., Any], process: Replacement, times: Times) -> Partial:
    """A network for ``glauber_generative`` from one that classifies tokens as signal or noise.

    With ``o`` the odds that a token ``v`` in the place to draw was there at ``s``, against its being noise added since,
    the conditional is ``P(x_s^i = v | others) = (alpha(s) / alpha(t) - 1) pi(v) o``, normalised; the rest is Bayes'.

    Args:
        apply: ``(tokens, t, **extra) -> [*tokens.shape, vocab]``, logarithms of those odds for every token.
        process: uniform or marginal.
        times: as given to ``glauber_generative``.

    Raises:
        ValueError: a masked process, or a schedule that is not allowed.
        TypeError: a process of another kind.
    Source: Varma et al. 2024 (arXiv 2405.17035), sec. 3.
    """
    times = grid(process, times, "signal_classifier")
    if process.noise.absorbing:
        raise ValueError(
            "signal_classifier needs noise that can be taken for signal: with masks nothing is to classify"
        )
    return Partial(_from_signal, as_pytree(apply), process, times)


def _from_signal(
    apply: Callable[..., Any], process: Replacement, times: Times, x: Tokens, t: Array, **extra: Any
) -> Logits:
    logits = apply(x, t, **extra)
    s = times[jnp.searchsorted(-times, -t, side="right")]
    pi = process.noise.probability(jnp.arange(process.vocab))
    law = jax.nn.softmax(logits + jnp.log(pi), axis=-1)
    clean = law - expand(process.noisiness(s), logits) * pi
    return to_bayes(process, "leave_one_out", where_positive(jnp.log, clean, -jnp.inf), x, t)


def _replaces(process: Replacement, name: str) -> None:
    if not isinstance(process, Replacement):
        raise TypeError(f"{name} needs a masked, uniform or marginal process, got {process!r:.60}")
