"""Jump your steps: times of a token sampler by what another call between two of them would gain, 1, 2, 4, ... at once.

A step from ``t1`` to ``t3`` draws all its tokens from what the network says of ``x1``. With a break at ``t2`` those of
the second half come from what it says of ``x2``. How far the two samplers' paths are apart (in nats, and so at least
how far their samples are) is

    ancestral    E sum_i KL( x3_i | x2  ||  x3_i | x2_i and x1 )       on masked processes
                                                                       (b3 - b2) / (1 - b2) E sum_i KL( p_2i || p_1i )
    leaps        E sum_i KL of two clocks and of where they lead       over the masks of x2, or everywhere
                                                                       (t2 - t3) (R2 log(R2 / R1) - R2 + R1) if short
    counts       (k3 - k2) E mean_i KL( p_2i || p_1i )                 over the masks of x2

with ``b = alpha``, posteriors ``p`` and reverse rates ``R``. The best break is the one that changes most: it is looked
for by golden section, first in the whole range, then in both halves, and so on, so that a schedule of 64 steps contains
those of 32, 16, ...

With paths of the data and an exact posterior, a masked process has a picture. Let ``h(b)`` be the mean entropy of a
masked token. A sampler's paths are ``sum_k (b_{k+1} - b_k) h(b_k) - int h db`` per token away from the data's, the
error of a left Riemann sum, and a break at ``b2`` cuts the rectangle ``(b3 - b2) (h(b1) - h(b2))`` off it.

Source: Park, Lai, Hayakawa, Takida & Mitsufuji 2025, Jump your steps (arXiv 2410.07761), algorithm 1, and the authors'
program. It takes ``(t2 - t3) R2 log(R2 / R1)`` for all samplers, without ``- R2 + R1``, which is not zero where the
noise's rate changes, rounds times to a grid, and moves breaks that come too close by hand. The formula for ancestral
steps is exact for every process. That for leaps bounds tau-leaping by clocks on masked processes; on others, where a
token may move twice, it is no bound.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsamplers import checks
from jaxsamplers.core import Model, as_key, fold_in
from jaxsamplers.denoisers import as_pytree
from jaxsamplers.discrete.categorical import categorical
from jaxsamplers.discrete.denoisers import from_bayes
from jaxsamplers.discrete.processes import Replacement
from jaxsamplers.discrete.randomness import BLOCK, MOVE, NOISE_BLOCK, NOISE_TOKEN, ORDER, ROUTE, TOKEN, bits, happens
from jaxsamplers.discrete.routing import take
from jaxsamplers.discrete.samplers import ancestral, rate_coefficients, tau_leaping
from jaxsamplers.discrete.table import tokens
from jaxsamplers.laws import where_positive

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, Key

    Tokens = Int[Array, "batch length"]
    Logits = Float[Array, "batch length V"]
    PerSample = Float[Array, " batch"]

SAMPLERS = ("ancestral", "leaps")
PATHS = ("data", "sampler")
GOLDEN = (5**0.5 - 1) / 2
MARGIN = 1e-3  # of the range, that a break keeps from its ends


def jump_your_steps(
    process: Replacement,
    model: Model,
    x0: Tokens,
    steps: int,
    key: Key[Array, ""],
    *,
    sampler: str = "ancestral",
    paths: str = "data",
    iterations: int = 20,
    t_start: float | None = None,
    t_end: float | None = None,
) -> Float[Array, " steps+1"]:
    """Times by golden section; ``2 (iterations + 2) (steps - 1)`` network calls on all of ``x0``, one program.

    Every second time of a schedule, every fourth, ... is the schedule of a half, a quarter, ... of the steps.

    Args:
        process: masked, uniform or marginal.
        model: the denoiser.
        x0: samples of the data, ``[samples, length]``, all in one batch; the authors take 64 to 1024.
        steps: a power of 2.
        key: of the noise, the same for all breaks that are tried.
        sampler: "ancestral", or "leaps" for ``euler`` and ``tau_leaping``.
        paths: "data", both ``x1`` and ``x2`` on the way of one ``x0`` to noise, or "sampler", ``x2`` by a step of the
            sampler from ``x1``.
        iterations: of each golden section; each leaves 0.618 of the range.
        t_start: the first time, ``process.t_max`` by default.
        t_end: the last, ``process.t_min`` by default.

    Raises:
        ValueError: ``steps`` that is no power of 2, unknown names, tokens of another shape, times out of order; leaps
            where the noise's rate is infinite.
    """
    x0 = _data(process, x0)
    _power_of_two(steps)
    checks.one_of("sampler", sampler, SAMPLERS)
    checks.one_of("paths", paths, PATHS)
    checks.integer("iterations", iterations, low=1)
    ends = jnp.asarray([t if given is None else given for t, given in _ends(process, t_start, t_end)], float)
    checks.within("t_start - t_end", ends[0] - ends[1], 0.0, above=True)
    if sampler == "leaps":
        rate_coefficients(process, ends[:1])  # which must be finite
    return _times(process, as_pytree(model), x0, ends, as_key(key), steps, sampler, paths, iterations)


def jump_your_counts(
    process: Replacement,
    model: Model,
    x0: Tokens,
    steps: int,
    key: Key[Array, ""],
    *,
    paths: str = "data",
    iterations: int = 20,
) -> tuple[int, ...]:
    """The same for ``js.discrete.k_gillespie``: how many tokens each step draws.

    Args:
        process: a masked one.
        model: the denoiser.
        x0: samples of the data, ``[samples, length]``.
        steps: a power of 2, at most ``length``.
        key: of the noise.
        paths: as in ``jump_your_steps``.
        iterations: of each golden section.

    Raises:
        ValueError: ``steps`` that is no power of 2 or more than the length, an unknown ``paths``.
        TypeError: a process without masks.
    """
    x0 = _data(process, x0)
    _power_of_two(steps)
    checks.integer("steps", steps, low=1, high=x0.shape[1])
    checks.one_of("paths", paths, PATHS)
    checks.integer("iterations", iterations, low=1)
    if not process.noise.absorbing:
        raise TypeError("jump_your_counts needs a masked process: with other noise no position is known to be clean")
    counts = _counts(process, as_pytree(model), x0, as_key(key), steps, paths, iterations)
    return tuple(int(count) for count in np.diff(np.asarray(counts)))


def break_gain(
    process: Replacement,
    model: Model,
    x1: Tokens,
    x2: Tokens,
    t1: Float[Array, ""],
    t2: Float[Array, ""],
    t3: Float[Array, ""],
    *,
    sampler: str = "ancestral",
) -> PerSample:
    """How far a step from ``t1`` to ``t3`` moves when it is broken at ``t2``, for given tokens at both; in nats.

    Its mean over ``x1`` and what the sampler makes of it is at least the divergence of the law of ``x3`` with the break
    from the one without.

    Args:
        process: masked, uniform or marginal.
        model: the denoiser.
        x1: tokens at ``t1``, ``[batch, length]``.
        x2: tokens at ``t2``.
        t1: where the step starts.
        t2: the break.
        t3: where it ends.
        sampler: as in ``jump_your_steps``.

    Raises:
        ValueError: an unknown ``sampler``.
    """
    checks.one_of("sampler", sampler, SAMPLERS)
    before, after = process.clean(model(x1, t1), x1), process.clean(model(x2, t2), x2)
    return (_leaps_apart if sampler == "leaps" else _steps_apart)(process, before, after, x1, x2, t1, t2, t3)


def _leaps_apart(
    process: Replacement, before: Logits, after: Logits, x1: Tokens, x2: Tokens, t1: Array, t2: Array, t3: Array
) -> PerSample:
    old, new = (from_bayes(process, "rate", logits, x, t) for logits, x, t in ((before, x1, t1), (after, x2, t2)))
    moving = jnp.arange(process.vocab) != x2[..., None]
    if process.noise.absorbing:
        moving &= (process.noise.probability(x2) > 0)[..., None]
    old, new = (jnp.where(moving, rates, 0.0) for rates in (old, new))
    return jnp.sum(_clocks_apart((t2 - t3) * new, (t2 - t3) * old), axis=-1)


def _steps_apart(
    process: Replacement, before: Logits, after: Logits, x1: Tokens, x2: Tokens, t1: Array, t2: Array, t3: Array
) -> PerSample:
    if not process.noise.absorbing:  # what a token's own new value says of it; of a mask, nothing
        own = lambda x, t: _log(process.likelihood(x, t)[..., : process.vocab])
        before = before + own(x2, t2) - own(x1, t1)
    table = ancestral(process, jnp.stack([t2, t3]))
    row = jax.tree.map(lambda leaf: leaf[0], table.rows)
    new, old = (table.law(row, x2, logits) for logits in (after, before))
    return jnp.sum(where_positive(lambda p: p * (jnp.log(p) - _log(old)), new, 0.0), axis=(-2, -1))


@functools.partial(jax.jit, static_argnames=("steps", "sampler", "paths", "iterations"))
def _times(
    process: Replacement,
    model: Model,
    x0: Tokens,
    ends: Float[Array, "2"],
    key: Key[Array, ""],
    steps: int,
    sampler: str,
    paths: str,
    iterations: int,
) -> Float[Array, " steps+1"]:
    make: Callable[..., Any] = ancestral if sampler == "ancestral" else tau_leaping

    def gain(t1: Array, t2: Array, t3: Array) -> Array:
        x1, x2 = _noisy(process, key, x0, t1, t2)
        before = process.clean(model(x1, t1), x1)
        if paths == "sampler":
            table = make(process, jnp.stack([t1, t2, t3]))  # the last step of a table may be another's
            there = table.route(jax.tree.map(lambda leaf: leaf[0], table.rows), x1, before)
            x2 = take(process.noise, fold_in(key, 1), x1, there)
        of = (process, before, process.clean(model(x2, t2), x2), x1, x2, t1, t2, t3)
        if sampler == "ancestral":
            return _steps_apart(*of).mean()
        return jnp.where(t3 > ends[1], _leaps_apart(*of), _steps_apart(*of)).mean()  # leaps end with such a step

    def insert(times: Array, places: Array) -> tuple[Array, None]:
        t1, t3 = times[places[0]], times[places[2]]
        edge = MARGIN * (t1 - t3)
        t2 = golden_section(lambda t2: gain(t1, t2, t3), t3 + edge, t1 - edge, iterations)
        return times.at[places[1]].set(t2), None

    times = jnp.zeros(steps + 1, ends.dtype).at[jnp.array([0, steps])].set(ends)
    return jax.lax.scan(insert, times, _insertions(steps))[0] if steps > 1 else times


@functools.partial(jax.jit, static_argnames=("steps", "paths", "iterations"))
def _counts(
    process: Replacement, model: Model, x0: Tokens, key: Key[Array, ""], steps: int, paths: str, iterations: int
) -> Int[Array, " steps+1"]:
    length = x0.shape[1]
    rank = jnp.argsort(jnp.argsort(bits(fold_in(key, ORDER), x0.shape), axis=-1), axis=-1)
    mask = process.prior(key, x0.shape)
    start = process.noisiness(process.t_max)
    time = lambda k: jnp.minimum(process.time(jnp.log1p(-(1 - k / length) * start)), process.t_max)
    word = lambda role: bits(fold_in(key, role), x0.shape)

    def gain(k1: Array, k2: Array, k3: Array) -> Array:
        x1 = jnp.where(rank < k1, x0, mask)
        before = process.clean(model(x1, time(k1)), x1)
        drawn = categorical(before).draw(word(BLOCK), word(TOKEN)).astype(x0.dtype) if paths == "sampler" else x0
        x2 = jnp.where((rank >= k1) & (rank < k2), drawn, x1)
        after = process.clean(model(x2, time(k2)), x2)
        p, q = jax.nn.softmax(after), jax.nn.softmax(before)
        each = jnp.sum(where_positive(lambda p: p * (jnp.log(p) - _log(q)), p, 0.0), axis=-1)
        hidden = rank >= k2
        return (k3 - k2) * jnp.sum(jnp.where(hidden, each, 0.0), axis=-1).mean() / (length - k2)

    def insert(counts: Array, places: Array) -> tuple[Array, None]:
        left, middle, right = places
        k1, k3, room = counts[left], counts[right], middle - left
        ends = (1.0 * (k1 + room), 1.0 * (k3 - room))  # so that each half has a token for each of its steps
        k2 = golden_section(lambda k: gain(k1, jnp.round(k), k3), *ends, iterations)
        return counts.at[middle].set(jnp.round(k2).astype(counts.dtype)), None

    counts = jnp.zeros(steps + 1, jnp.int32).at[-1].set(length)
    return jax.lax.scan(insert, counts, _insertions(steps))[0] if steps > 1 else counts


def golden_section(
    f: Callable[[Any], Any], low: Float[Array, ""], high: Float[Array, ""], iterations: int
) -> Float[Array, ""]:
    """The best point tried of a search for a maximum between two points; the maximum, if ``f`` has but one."""

    def probe(number: int | Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
        """One point more; the first two are where a golden section starts."""
        low, left, right, high, at_left, at_right, best, at_best = state
        rising = at_right > at_left
        first, second = number == 0, number == 1
        shrunk_low, shrunk_high = jnp.where(rising, left, low), jnp.where(rising, high, right)
        low, high = jnp.where(first | second, low, shrunk_low), jnp.where(first | second, high, shrunk_high)
        on_right = jnp.where(first, False, jnp.where(second, True, rising))
        x = jnp.where(on_right, low + GOLDEN * (high - low), high - GOLDEN * (high - low))
        value = f(x)
        kept, at_kept = jnp.where(rising, right, left), jnp.where(rising, at_right, at_left)
        kept, at_kept = jnp.where(second, left, kept), jnp.where(second, at_left, at_kept)
        pick = lambda a, b: (jnp.where(on_right, a, b), jnp.where(on_right, b, a))
        better = value > at_best
        best, at_best = jnp.where(better, x, best), jnp.where(better, value, at_best)
        return low, *pick(kept, x), high, *pick(at_kept, value), best, at_best

    unknown = jnp.full_like(low, -jnp.inf)
    state = (low, low, high, high, unknown, unknown, (low + high) / 2, unknown)
    return jax.lax.fori_loop(0, iterations + 2, probe, state)[-2]


def _noisy(process: Replacement, key: Key[Array, ""], x0: Tokens, t1: Array, t2: Array) -> tuple[Tokens, Tokens]:
    """Tokens at both times on one path of the noise; with one key they change little with the times."""
    word = lambda role: bits(fold_in(key, role), x0.shape)
    drawn = lambda a, b: process.noise.draw(word(a), word(b), None).astype(x0.dtype)
    late, early = drawn(NOISE_BLOCK, NOISE_TOKEN), drawn(BLOCK, TOKEN)
    hit_early, hit = happens(word(MOVE), process.noisiness(t2)), happens(word(MOVE), process.noisiness(t1))
    again = happens(word(ROUTE), process.noisiness(t1, t2))
    x2 = jnp.where(hit_early, early, x0)
    return jnp.where(jnp.where(hit_early, again, hit), late, x2), x2


def _insertions(steps: int) -> Int[Array, "steps-1 3"]:
    """Left, middle and right of every break, level by level."""
    widths = [steps >> level for level in range(steps.bit_length() - 1)]
    return jnp.array([(a, a + w // 2, a + w) for w in widths for a in range(0, steps, w)])


def _clocks_apart(new: Float[Array, "... V"], old: Float[Array, "... V"]) -> Float[Array, "..."]:
    """The divergence of what becomes of a token that is expected to move so many times, and rests after one."""
    n, m = new.sum(-1), old.sum(-1)
    moves = -jnp.expm1(-n)
    rings = where_positive(lambda p: p * (jnp.log(p) - _log(-jnp.expm1(-m))), moves, 0.0)
    law, other = (rates / jnp.where(rates.sum(-1) > 0, rates.sum(-1), 1.0)[..., None] for rates in (new, old))
    where = jnp.sum(where_positive(lambda p: p * (jnp.log(p) - _log(other)), law, 0.0), axis=-1)
    return rings + jnp.exp(-n) * (m - n) + moves * where


def _log(p: Array) -> Array:
    """Finite: what should be impossible costs 87 nats in float32."""
    return jnp.log(jnp.maximum(p, jnp.finfo(p.dtype).tiny))


def _ends(process: Replacement, start: float | None, end: float | None) -> list[tuple[float, float | None]]:
    return [(process.t_max, start), (process.t_min, end)]


def _data(process: Replacement, x0: Tokens) -> Tokens:
    x0 = tokens(x0, process.states)
    if x0.ndim != 2:
        raise ValueError(f"x0 must be [samples, length], got shape {x0.shape}")
    return x0


def _power_of_two(steps: int) -> None:
    checks.integer("steps", steps, low=1)
    if steps & (steps - 1):
        raise ValueError(f"steps must be a power of 2, got {steps}: every break halves")
