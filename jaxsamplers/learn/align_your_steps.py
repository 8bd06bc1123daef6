"""Align Your Steps: a schedule by coordinate search on the KLUB, without gradients, one node at a time.

A node touches only the two steps beside it, so nodes that are no neighbours are placed at the same time: a sweep places
the odd nodes, then the even ones. Each has eleven candidates, where it is and

    log(sigma / alpha) moved towards either neighbour by 1/2, 1/4, 1/8, 1/16 or 1/32 of the way

and takes the one of least KLUB. Order is kept by itself, and as all candidates and sweeps share their random numbers,
the estimate never rises. A long schedule is found by doubling a short one: nodes are put in the middle of its steps, in
``log(sigma / alpha)``, and these alone are placed.

The KLUB bounds the divergence of stochastic DDIM's paths (``ddim`` with ``eta=1``). The authors use its schedules for
SDE-DPM-Solver++(2M) and ER-SDE and, among the ODE solvers, for DDIM and DPM-Solver++(2M). It is not the error of the
samples: near its minimum they can become worse, most of all the ODE solvers', so give ``metric`` to choose by, or take
few sweeps.

Source: Sabour, Fidler & Kreis 2024, Align your steps (arXiv 2404.14507), sec. 3.2 - 3.3, algorithm 1. They do not say
where the ten other candidates lie. They begin with ten steps of EDM's schedule or of uniform times, double twice, and
read other lengths off the result, as ``schedules.interpolate`` does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsamplers import checks, schedules
from jaxsamplers.core import Model, as_key
from jaxsamplers.denoisers import as_pytree
from jaxsamplers.learn.klub import SPREAD, check, interval, klub
from jaxsamplers.processes import Process

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, Key, PyTree

    Nodes = Float[Array, " n+1"]

REACHES = (0.5, 0.25, 0.125, 0.0625, 0.03125)  # of the way to a neighbour


def align_your_steps(
    process: Process,
    model: Model,
    x0: PyTree,
    times: Nodes,
    key: Key[Array, ""],
    *,
    sweeps: int = 3,
    doublings: int = 0,
    metric: Callable[[Nodes], Any] | None = None,
    patience: int = 3,
    c: float = SPREAD,
    draws: int | None = None,
    report: Callable[..., None] | None = None,
) -> Nodes:
    """A schedule between the same ends with a smaller KLUB; about ``46 n draws`` network calls a sweep.

    Schedules of one length share a compiled program, and ``times`` need not be near the result.

    Args:
        process: the noise process, of normal noise.
        model: the denoiser ``(x, t) -> x0``.
        x0: samples of the data ``[samples, ...]``, an array or a pytree of them.
        times: where the search starts, of two steps or more. A last step to the clean end, whose KLUB is infinite, does
            not count: it stays as it is, the time where it begins and all.
        key: PRNG key, of all sweeps and candidates alike.
        sweeps: at most so many over all nodes, and over the new ones after a doubling; fewer when no node moves.
        doublings: how often the number of steps is doubled: 2 takes ten steps to the authors' forty.
        metric: ``times -> float``, smaller is better, a distance of samples to the truth for instance. It is asked
            at the start and after every sweep, not after doublings, and the best schedule seen is kept.
        patience: stop when this many sweeps in a row have not improved ``metric``.
        c: the data's spread as the importance sampling assumes it.
        draws: pairs of network calls for a step's KLUB, ``samples`` by default; the authors take 8192.
        report: called after every sweep as ``report(done, total, klub=..., steps=...)``, with ``metric=...`` if there
            is one.

    Raises:
        ValueError: numbers out of range, and as ``klub``.
        FloatingPointError: a KLUB or metric that is not a number, which a network with NaN answers leads to.
    """
    times = schedules.validate(process, times)
    known = checks.concrete(process.half_log_snr(times[-1:]))
    kept = times[-1:] if known is not None and np.isposinf(known).all() else times[:0]
    times, count = check(process, times[: len(times) - len(kept)], x0, c, draws)
    checks.integer("steps of times before the clean end", len(times) - 1, low=2)
    for name, value, low in (("sweeps", sweeps, 1), ("doublings", doublings, 0), ("patience", patience, 1)):
        checks.integer(name, value, low=low)
    sweep = functools.partial(_sweep, process, as_pytree(model), x0, as_key(key), c, draws=count)
    total = sweeps * (doublings + 1)
    full = lambda times: jnp.concatenate([times, kept])

    def search(times: Nodes, stage: int) -> Nodes:
        """The best of the schedules after each sweep: the last, or by ``metric`` in the first stage."""
        ask = None if stage else metric
        nodes = _nodes(len(times) - 1, new=stage > 0)
        best, least, stale = times, np.inf if ask is None else _number("metric", ask(full(times))), 0
        for done in range(1, sweeps + 1):
            before = times
            times, value = sweep(before, nodes)
            numbers = {"klub": _number("KLUB", value), "steps": len(full(times)) - 1}
            if ask is None:
                best = times
            else:
                numbers["metric"] = _number("metric", ask(full(times)))
                stale = 0 if numbers["metric"] < least else stale + 1
                best, least = (best, least) if stale else (times, numbers["metric"])
            if report is not None:
                report(stage * sweeps + done, total, **numbers)
            if stale >= patience or bool(jnp.array_equal(times, before)):
                break
        return best

    times = search(times, 0)
    for stage in range(1, doublings + 1):
        times = search(subdivide(process, times), stage)
    return full(times)


def subdivide(process: Process, times: Nodes) -> Nodes:
    """Every step cut in two, halfway in ``log(sigma / alpha)``; the old nodes stay as they are.

    A first step, from pure noise, has no half of the way: it is cut as far before its end as the next step is long.

    Args:
        process: what ``times`` belong to.
        times: a schedule that does not end at the clean end, of two steps or more if it begins with pure noise.

    Raises:
        ValueError: a step without a middle, or a schedule that ``schedules.validate`` refuses.
    """
    times = schedules.validate(process, times)
    levels = process.half_log_snr(times)
    middles = (levels[1:] + levels[:-1]) / 2
    if len(times) > 2:
        middles = middles.at[0].set(jnp.where(jnp.isfinite(levels[0]), middles[0], 2 * levels[1] - levels[2]))
    known = checks.concrete(middles)
    if known is not None and not np.isfinite(known).all():
        raise ValueError(f"a step to the clean end has no middle in log(sigma / alpha), got times {times}")
    pairs = jnp.stack([times[:-1], process.time(middles).astype(times.dtype)], axis=1).reshape(-1)
    return schedules.validate(process, jnp.append(pairs, times[-1]))


def _nodes(steps: int, new: bool) -> Int[np.ndarray, "halves k"]:
    """The nodes to place together: the odd ones and then, unless only these are new, the even ones."""
    halves = [np.arange(first, steps, 2) for first in ((1,) if new or steps == 2 else (1, 2))]
    return np.stack([np.pad(half, (0, len(halves[0]) - len(half)), mode="edge") for half in halves])


@functools.partial(jax.jit, static_argnames="draws")
def _sweep(
    process: Process,
    model: Model,
    x0: PyTree,
    key: Key[Array, ""],
    c: float,
    times: Nodes,
    halves: Int[Array, "halves k"],
    *,
    draws: int,
) -> tuple[Nodes, Float[Array, ""]]:
    """Place the nodes of one half after the other; and the KLUB afterwards."""

    def step(of: tuple[Array, Array, Array]) -> Array:
        number, noisy, clean = of
        return interval(process, model, noisy, clean, x0, jax.random.fold_in(key, number), c, draws)

    def place(times: Nodes, nodes: Int[Array, " k"]) -> tuple[Nodes, None]:
        candidates = _candidates(process, times)[nodes]
        like = lambda values: jnp.broadcast_to(values[:, None], candidates.shape)
        before = like(nodes - 1), like(times[nodes - 1]), candidates
        after = like(nodes), candidates, like(times[nodes + 1])
        steps = jax.tree.map(lambda *sides: jnp.stack(sides).reshape(-1), before, after)
        costs = jnp.sum(jax.lax.map(step, steps).reshape(2, *candidates.shape), axis=0)
        chosen = jnp.argmin(jnp.where(jnp.isnan(costs), jnp.inf, costs), axis=1)  # of equal ones the first, its place
        return times.at[nodes].set(jnp.take_along_axis(candidates, chosen[:, None], axis=1)[:, 0]), None

    times, _ = jax.lax.scan(place, times, halves)
    return times, klub(process, model, times, x0, key, c=c, draws=draws)


def _candidates(process: Process, times: Nodes) -> Float[Array, "n+1 11"]:
    """For every node its own time, exactly, and ten on both sides; those of the two ends mean nothing."""
    levels = process.half_log_snr(times)
    gaps = jnp.diff(levels)
    gaps = gaps.at[0].set(jnp.where(jnp.isfinite(gaps[0]), gaps[0], gaps[1]))  # pure noise is infinitely far away
    before, after = jnp.append(0.0, gaps)[:, None], jnp.append(gaps, 0.0)[:, None]
    reaches = jnp.asarray(REACHES, times.dtype)
    moved = levels[:, None] + jnp.concatenate([-before * reaches, after * reaches], axis=1)
    return jnp.concatenate([times[:, None], process.time(moved).astype(times.dtype)], axis=1)


def _number(name: str, value: Any) -> float:
    number = float(value)
    if np.isnan(number):
        raise FloatingPointError(f"the {name} of a schedule is not a number: does the network answer NaN?")
    return number
