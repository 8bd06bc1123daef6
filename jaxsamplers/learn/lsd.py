"""LSD: numbers for a sampler of few steps over tokens, from one of many steps, without a gradient through either.

Draws of tokens have no gradient, so the samples of a student and a teacher cannot be pulled together. Their scores can.
Let the teacher's tokens at the time ``t_k`` of the student's step ``k`` be ``x*``, the student's own ``x``, and
``s* = s(x*, t_k)`` and ``s = s(x, t_k)`` what the one network says of both:

    "score"        min E |s* - Phi_k s|^2                  Phi_k = E <s*, s> / E <s, s>, exactly
    "log_score"    min E KL(p* | p^Phi_k / sum p^Phi_k)    of the posteriors: one unknown in a convex problem
    steps, LSD+    min E |Delta_k s* - kappa_k s|^2        from tau_0 = t_0, tau_{k+1} = tau_k - kappa_k

Every number has a loss of its own, given those before it, so one pass of the student finds them all. They go into
``js.discrete.scaled``, ``js.discrete.tempered`` and into any sampler as its times. Scores are taken with the noise's
rate, ``Q s``, as reverse rates: the same factor on both sides at one time, without their 0 / 0 where nothing survives,
and what a step really multiplies at two different times.

**Randomness.** Two independent paths agree on nothing but the model. The more tokens there are the less a visible one
of the teacher tells of the student's, and ``Phi`` collapses: at a share ``m`` of masks it is at most about ``m``. With
common random numbers every token has one clock and one draw, whoever asks for them; this is the default.

**What to expect.** On a masked process a factor of the score moves tokens in time and changes nothing else, as a
schedule does. A power of the posterior makes likely tokens likelier or rarer: likelihood and entropy belong side by
side. With an exact posterior ``Phi < 1`` says that the student knows it errs, not that it errs less with it.

Source: Fu et al. 2025, Learnable sampler distillation for discrete diffusion models (arXiv 2509.19962), eq. 5 - 10.
Their eq. 8 has ``(T - eps) / N`` with the teacher's number of steps for ``Delta_k``, which makes ``kappa`` too small by
the ratio of the numbers of steps; here it is the student's own step, which is what the teacher does meanwhile. Their
program multiplies the *log*-score, compares softmaxes of network outputs by a sum that is no divergence, moves the
tokens twice a step and perturbs the teacher's start as well.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.core import Model, as_key, fold_in, sample_keys
from jaxsamplers.denoisers import as_pytree
from jaxsamplers.discrete.denoisers import from_bayes
from jaxsamplers.discrete.processes import Replacement
from jaxsamplers.discrete.randomness import MOVE, ORDER, TOKEN, log_unit
from jaxsamplers.discrete.routing import Route, arrive
from jaxsamplers.discrete.samplers import rate_coefficients
from jaxsamplers.discrete.table import TokenTable, needed, tokens
from jaxsamplers.discrete.tempered import Tempered, scale, sharpen

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, Key

    from jaxsamplers.discrete.noises import Noise

    Times = Float[Array, " n+1"]
    Tokens = Int[Array, "batch length"]
    Make = Callable[[Any, Any], TokenTable]

TARGETS = ("score", "log_score")
NOISES = ("common", "independent")
LEAST, MOST, HALVINGS = 1 / 16, 16.0, 30  # of an exponent, and how finely it is looked for
FLOOR = 0.02  # of a step, as a fraction of what it was


class Traces(NamedTuple):
    """Where a teacher went, sample by sample.

    Attributes:
        path: its tokens before each of its steps.
        key: whose clocks and draws they followed.
    """

    path: Int[Array, "batch N length"]
    key: Key[Array, " batch"]


class Teacher(NamedTuple):
    """A teacher's times, one a step, and its traces."""

    times: Float[Array, " N"]
    traces: Traces


def lsd_teacher(sampler: TokenTable | Tempered, model: Model, x: Tokens, key: Key[Array, ...]) -> Teacher:
    """Runs a teacher and keeps its tokens at every step; what the network says of them is asked again when needed.

    Args:
        sampler: a table of many steps, tempered or not, of the student's process and method or others.
        model: the denoiser.
        x: noise to start from, ``[batch, length]``.
        key: one key, or one per sample.

    Raises:
        TypeError: a sampler that is no table.
        ValueError: tokens of another shape.
    """
    _table("sampler", sampler)
    x = tokens(x, sampler.process.states)
    if x.ndim != 2:
        raise ValueError(f"x must be [batch, length], got shape {x.shape}")
    key = as_key(needed(key))
    keys = sample_keys(key, jnp.arange(len(x))) if key.ndim == 0 else key
    return Teacher(_times(sampler), Traces(_trace(sampler, as_pytree(model), x, keys), keys))


def lsd(
    student: TokenTable,
    model: Model,
    teacher: Teacher,
    *,
    on: str = "score",
    noise: str = "common",
    share: float = 0.0,
) -> Float[Array, " n"]:
    """A student's coefficients in closed form, one a step, for ``js.discrete.scaled`` or ``js.discrete.tempered``.

    Two network calls a step for the batch of the teacher's traces. The teacher is taken at its time nearest to each of
    the student's. On the score the last coefficient is 1: the last step leaves no noise.

    Args:
        student: a table of few steps.
        model: the denoiser.
        teacher: what ``lsd_teacher`` returned.
        on: "score", a factor of the rates, or "log_score", a power of the posterior (compared where both sides have
            masks, on the tokens that the student holds possible).
        noise: "common" random numbers of student and teacher, or "independent" ones, the published objective.
        share: of positions with a random token in the student's start: the paper's relaxed start, about 0.05 there. For
            learning only.

    Raises:
        TypeError: a student that is no table.
        ValueError: an unknown ``on`` or ``noise``, ``share`` outside [0, 1]; scores where the noise's rate is infinite.
    """
    objective = lsd_objective(student, model, teacher.times, on=on, noise=noise, share=share)
    return _closed_form(objective, teacher.traces)


def lsd_objective(
    student: TokenTable,
    model: Model,
    times: Float[Array, " N"],
    *,
    on: str = "score",
    noise: str = "common",
    share: float = 0.0,
) -> Alignment:
    """The same losses for ``fit``: parameters are the *logarithms* of the coefficients, an array ``[n]``, 0 to start.

        objective = js.learn.lsd_objective(student, model, teacher.times)
        found = js.learn.fit(objective, jnp.zeros(8), batches=js.learn.batches(teacher.traces, 64), ...)
        sampler = js.discrete.scaled(student, jnp.exp(found.parameters))

    Arguments and errors as ``lsd``; ``times`` are the teacher's.
    """
    if not isinstance(student, TokenTable):
        raise TypeError(f"student must be a TokenTable, got a {type(student).__name__}")
    checks.one_of("on", on, TARGETS)
    _check(noise, share)
    if on == "score":
        rate_coefficients(student.process, student.rows.time)  # which must be finite
    return Alignment(student, as_pytree(model), times, on, noise, share)


def lsd_steps(
    method: Make,
    process: Replacement,
    times: Times,
    model: Model,
    teacher: Teacher,
    *,
    noise: str = "common",
    share: float = 0.0,
) -> Times:
    """LSD+: times whose steps do what the teacher's path does meanwhile, in closed form; two network calls a step.

    Step ``k`` starts where those before it ended, ``tau_k``, and its length is such that its expected moves are nearest
    to those of the teacher between ``times[k]`` and ``times[k + 1]``. The last one goes to the end of ``times``, and
    none becomes shorter than a fiftieth of what it was. Coefficients may be learned on the new times by ``lsd``.

    Args:
        method: ``(process, times) -> table``, such as ``js.discrete.ancestral``.
        process: masked, uniform or marginal.
        times: ``n + 1`` decreasing times to start from, two steps or more.
        model: the denoiser.
        teacher: what ``lsd_teacher`` returned.
        noise: as in ``lsd``.
        share: as in ``lsd``.

    Raises:
        TypeError: a method that makes no table.
        ValueError: fewer than two steps, an unknown ``noise``, ``share`` outside [0, 1]; infinite rates of the noise.
    """
    _check(noise, share)
    times = jnp.asarray(times)
    checks.integer("the number of steps", len(times) - 1, low=2)
    _table("method(process, times)", method(process, times))
    rate_coefficients(process, times[:-1])  # which must be finite
    return _steps(method, process, times, as_pytree(model), teacher, noise, share)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["student", "model", "times"],
    meta_fields=["on", "noise", "share"],
)
@dataclasses.dataclass(frozen=True)
class Alignment:
    """See ``lsd_objective``.

    Attributes:
        student: a table; positions that may not move in it do not count.
        model: the denoiser.
        times: the teacher's.
        on: "score" or "log_score".
        noise: "common" or "independent".
        share: of the student's start that is tokens.
    """

    student: TokenTable
    model: Model
    times: Float[Array, " N"]
    on: str
    noise: str
    share: float

    def __call__(self, parameters: Float[Array, " n"], batch: Traces, key: Key[Array, ""] | None) -> Float[Array, ""]:
        """The mean of the steps' losses; what the student draws comes from the traces' keys."""
        return self.align(jnp.exp(parameters), batch)[1].mean()

    def align(self, given: Float[Array, " n"] | None, batch: Traces) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        """The coefficients, the best ones where none are given, and the loss of each."""
        process, keys = self.student.process, _keys(batch, self.noise)
        number = jnp.arange(len(self.student))

        def body(walk: Walk, step: tuple[Array, Any, Array | None]) -> tuple[Walk, tuple[Array, Array]]:
            k, row, phi = step
            goal = _goal(process, self.model, self.times, batch, row.time)
            logits = jax.lax.stop_gradient(process.clean(self.model(walk.x, row.time), walk.x))
            if self.on == "score":
                ours = _rates(self.student, logits, walk.x, row.time)
                theirs = _rates(self.student, goal.logits, goal.x, row.time)
                last = k == len(self.student) - 1
                phi = jnp.where(last, 1.0, _ratio(theirs, ours) if phi is None else phi)
                loss = jnp.where(last, 0.0, _misfit(theirs, phi * ours))
            else:
                weight = _comparable(self.student, goal.x, walk.x)
                phi = _exponent(goal.logits, logits, weight) if phi is None else phi
                loss = _surprise(goal.logits, logits, weight, phi)
            fixed = jax.lax.stop_gradient(phi)
            if self.on == "score":
                there = self.student.route(scale(row, fixed), walk.x, logits)
            else:
                there = self.student.route(row, walk.x, sharpen(logits, fixed))
            return _advance(process.noise, walk, there, keys), (phi, loss)

        walk = _begin(_relaxed(process, batch.path[:, 0], keys, self.share), self.times.dtype)
        return jax.lax.scan(body, walk, (number, self.student.rows, given))[1]


class Walk(NamedTuple):
    """Tokens on their way, each with how long its clock has run and how often it has moved."""

    x: Tokens
    run: Float[Array, "batch length"]
    moves: Int[Array, "batch length"]


class Goal(NamedTuple):
    """The teacher's tokens, and what the network says of them."""

    x: Tokens
    logits: Float[Array, "batch length V"]


@jax.jit
def _closed_form(objective: Alignment, traces: Traces) -> Float[Array, " n"]:
    return objective.align(None, traces)[0]


@jax.jit
def _trace(sampler: TokenTable | Tempered, model: Model, x: Tokens, keys: Key[Array, " batch"]) -> Array:
    process, times = sampler.process, _times(sampler)
    places = _places(keys, x.shape[1])

    def body(walk: Walk, step: tuple[Array, Any]) -> tuple[Walk, Tokens]:
        t, row = step
        there = sampler.route(row, walk.x, process.clean(model(walk.x, t), walk.x))
        return _advance(process.noise, walk, there, places), walk.x

    path = jax.lax.scan(body, _begin(x, times.dtype), (times, sampler.rows))[1]
    return path.swapaxes(0, 1)


@functools.partial(jax.jit, static_argnames=("method", "noise", "share"))
def _steps(
    method: Make, process: Replacement, times: Times, model: Model, teacher: Teacher, noise: str, share: float
) -> Times:
    keys, end, whole = _keys(teacher.traces, noise), times[-1], method(process, times)

    def body(state: tuple[Walk, Array], step: tuple[Array, Array]) -> tuple[tuple[Walk, Array], Array]:
        (walk, tau), (t, later) = state, step
        goal = _goal(process, model, teacher.times, teacher.traces, t)
        logits = process.clean(model(walk.x, tau), walk.x)
        ours = _rates(whole, logits, walk.x, tau)
        theirs = _rates(whole, goal.logits, goal.x, t)
        kappa = (t - later) * _ratio(theirs, ours)
        after = jnp.clip(tau - kappa, end + FLOOR * (later - end), tau - FLOOR * (t - later))
        sampler = method(process, jnp.stack([tau, after, end]))  # the last step of a table may be another's
        there = sampler.route(jax.tree.map(lambda leaf: leaf[0], sampler.rows), walk.x, logits)
        return (_advance(process.noise, walk, there, keys), after), after

    walk = _begin(_relaxed(process, teacher.traces.path[:, 0], keys, share), times.dtype)
    inner = jax.lax.scan(body, (walk, times[0]), (times[:-2], times[1:-1]))[1]
    return jnp.concatenate([times[:1], inner, times[-1:]])


def _goal(process: Replacement, model: Model, times: Array, traces: Traces, t: Array) -> Goal:
    """The teacher at its time nearest to ``t``; the network is shown ``t``."""
    x = traces.path[:, jnp.argmin(jnp.abs(times - t))]
    return Goal(x, jax.lax.stop_gradient(process.clean(model(x, t), x)))


def _ratio(theirs: Array, ours: Array) -> Array:
    """The factor of ``ours`` that is nearest to ``theirs``; 1 if there is nothing to multiply."""
    size = jnp.sum(ours * ours)
    return jnp.where(size > 0, jnp.sum(theirs * ours) / jnp.where(size > 0, size, 1.0), 1.0)


def _misfit(theirs: Array, ours: Array) -> Array:
    """The squared difference, over the teacher's square."""
    size = jnp.sum(theirs * theirs)
    return jnp.sum((theirs - ours) ** 2) / jnp.where(size > 0, size, 1.0)


def _rates(sampler: TokenTable | Tempered, logits: Array, x: Tokens, t: Array) -> Array:
    """Reverse rates, 0 where nothing may move."""
    rates = from_bayes(sampler.process, "rate", logits, x, t)
    return rates if sampler.active is None else jnp.where(sampler.active[..., None], rates, 0.0)


def _comparable(sampler: TokenTable, x: Tokens, y: Tokens) -> Array:
    """Where both have a posterior of their own and may move: at masks, or everywhere if there are none."""
    noise = sampler.process.noise
    hidden = lambda x: noise.probability(x) > 0
    both = hidden(x) & hidden(y) if noise.absorbing else jnp.ones(x.shape, bool)
    return (both if sampler.active is None else both & sampler.active).astype(float)


def _exponent(theirs: Array, ours: Array, weight: Array) -> Array:
    """Where the expected log-posterior under its power is what it is under the teacher's posterior, by bisection."""
    log_p, goal = _possible(theirs, ours)

    def excess(phi: Array) -> Array:
        return jnp.sum(weight * jnp.sum((jax.nn.softmax(sharpen(ours, phi)) - goal) * log_p, axis=-1))

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = jnp.sqrt(low * high)
        above = excess(middle) > 0
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    ends = (jnp.asarray(LEAST, log_p.dtype), jnp.asarray(MOST, log_p.dtype))
    varies = excess(ends[1]) > excess(ends[0])
    low, high = jax.lax.fori_loop(0, HALVINGS, halve, ends)
    return jnp.where(varies, jnp.sqrt(low * high), 1.0)


def _surprise(theirs: Array, ours: Array, weight: Array, phi: Array) -> Array:
    """The teacher's mean surprise at the student's sharpened posterior, in nats."""
    _, goal = _possible(theirs, ours)
    log_q = jax.nn.log_softmax(sharpen(ours, phi))
    each = -jnp.sum(jnp.where(goal > 0, goal * jnp.where(goal > 0, log_q, 0.0), 0.0), axis=-1)
    return jnp.sum(weight * each) / jnp.maximum(weight.sum(), 1.0)


def _possible(theirs: Array, ours: Array) -> tuple[Array, Array]:
    """The student's log-posterior, and the teacher's posterior, on tokens that the student holds possible."""
    some = ours > -jnp.inf
    log_p = jnp.where(some, jax.nn.log_softmax(ours), 0.0)
    goal = jnp.where(some, jax.nn.softmax(theirs), 0.0)
    total = goal.sum(-1, keepdims=True)
    return log_p, goal / jnp.where(total > 0, total, 1.0)


def _begin(x: Tokens, dtype: Any) -> Walk:
    return Walk(x, jnp.zeros(x.shape, dtype), jnp.zeros(x.shape, jnp.int32))


def _advance(noise: Noise, walk: Walk, there: Route, places: Key[Array, "batch length"]) -> Walk:
    """A row's moves by clocks: a token moves when the chances to do so have used up an exponential time.

    ``1 - e^{-run}`` is the probability of having moved; so each row moves tokens with the probabilities of its route,
    and the same clocks and draws serve a path of many rows and one of few.
    """
    words = jax.vmap(jax.vmap(lambda key, n: jax.random.bits(jax.random.fold_in(key, n), (6,), jnp.uint32)))(
        places, walk.moves
    )
    word = lambda role: words[..., role]
    run = walk.run - jnp.log1p(-jnp.minimum(there.clean + there.noise, 1.0)).astype(walk.run.dtype)
    moves = run >= -log_unit(word(MOVE))
    x = arrive(noise, word, walk.x, there, moves)
    return Walk(x, jnp.where(moves, 0.0, run), walk.moves + moves)


def _keys(traces: Traces, noise: str) -> Key[Array, "batch length"]:
    """A key of each position: the teacher's, or others."""
    keys = traces.key if noise == "common" else fold_in(traces.key, 1)
    return _places(keys, traces.path.shape[-1])


def _places(keys: Key[Array, " batch"], length: int) -> Key[Array, "batch length"]:
    return jax.vmap(lambda key: jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(length)))(keys)


def _relaxed(process: Replacement, x: Tokens, places: Key[Array, "batch length"], share: float) -> Tokens:
    """The start with a share of its positions replaced by tokens, others than they have, that are no masks."""
    count = math.ceil(share * x.shape[1])
    if not count:
        return x
    words = jax.vmap(jax.vmap(lambda key: jax.random.bits(jax.random.fold_in(key, 2**31), (8,), jnp.uint32)))(places)
    chosen = jnp.argsort(jnp.argsort(words[..., ORDER], axis=-1), axis=-1) < count
    own = jnp.minimum(x, process.vocab)  # the mask's number where it is one of the logits, else one beyond
    others = process.vocab - (own < process.vocab)
    token = (words[..., TOKEN] % others.astype(jnp.uint32)).astype(x.dtype)
    return jnp.where(chosen, token + (token >= own), x)


def _times(sampler: TokenTable | Tempered) -> Array:
    return sampler.rows.inner.time if isinstance(sampler, Tempered) else sampler.rows.time


def _table(name: str, sampler: Any) -> None:
    inner = sampler.sampler if isinstance(sampler, Tempered) else sampler
    if not isinstance(inner, TokenTable):
        raise TypeError(f"{name} must be a TokenTable, tempered or not, got a {type(inner).__name__}")


def _check(noise: str, share: float) -> None:
    checks.one_of("noise", noise, NOISES)
    checks.within("share", share, 0.0, 1.0)
