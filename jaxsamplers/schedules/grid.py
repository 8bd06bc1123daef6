"""What all schedules share: their checks, steps equal in some coordinate, and a change of length."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import jax.numpy as jnp

from jaxsamplers import checks

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from jaxsamplers.processes import Process

    Times = Float[Array, " n+1"]


class Range(Protocol):
    """All that a schedule in time itself needs of a process, of whatever kind of data."""

    @property
    def t_min(self) -> float:
        """Where schedules end by default."""

    @property
    def t_max(self) -> float:
        """Where they start."""


def validate(process: Range, times: Times) -> Times:
    """``times`` as an array, after every check that can be made on it.

    Raises:
        ValueError: not one-dimensional, fewer than two times, lower precision than float32, NaN, not strictly
            decreasing, or outside the process's range (from the clean end, 0, to ``t_max``).
    """
    times = jnp.asarray(times)
    if times.ndim != 1 or times.shape[0] < 2:
        raise ValueError(f"times must be a vector of steps + 1 >= 2 times, got shape {times.shape}")
    if not jnp.issubdtype(times.dtype, jnp.floating):
        times = times.astype(jnp.result_type(float))
    if jnp.finfo(times.dtype).bits < 32:
        raise ValueError(f"times must be float32 or float64, got {times.dtype}, which cannot tell close times apart")
    known, t_max = checks.concrete(times), checks.concrete(process.t_max)
    if known is not None:
        if not (known[1:] < known[:-1]).all():  # NaN compares false
            raise ValueError(f"times must be strictly decreasing and not NaN, got {known}")
        if known[-1] < 0 or (t_max is not None and known[0] > t_max * (1 + 1e-6)):
            raise ValueError(f"times must lie in the process's range [0, {t_max:g}], got {known[0]:g} to {known[-1]:g}")
    return times


def interpolate(process: Process, times: Times, steps: int) -> Times:
    """A schedule of another length on the same curve: linear in ``log(sigma / alpha)`` against the step's number.

    A first time of pure noise, or a last one at the clean end, where the logarithm is infinite, is kept as it is, and
    so is the one step from or to it; the rest of the curve is resampled. Under a trace all are taken to be finite.

    Args:
        process: what ``times`` belong to.
        times: a schedule, of any length.
        steps: how many steps the result has.

    Raises:
        ValueError: times that are no schedule, or too few steps to keep the infinite ends.
    Source: Sabour et al. 2024, Align your steps (arXiv 2404.14507), sec. 3.3.
    """
    checks.integer("steps", steps, low=1)
    times = validate(process, times)
    levels = process.half_log_snr(times)
    known = checks.concrete(jnp.isinf(levels))
    first, last = (0, 0) if known is None else (int(known[0]), int(known[-1]))
    finite, inner = levels[first : len(levels) - last], steps - first - last
    if inner < 0 or not len(finite) or (inner == 0) != (len(finite) == 1):
        raise ValueError(
            f"{len(times) - 1} steps cannot become {steps}: the half-log-SNR is infinite at {first + last} of the "
            "ends, each takes a step, and what lies between must have one too"
        )
    points = process.time(resample(finite, inner))[1 - first : inner + last]
    return validate(process, jnp.concatenate([times[:1], points, times[-1:]]))


def resample(values: Float[Array, " n"], steps: int) -> Times:
    """``values`` at ``steps + 1`` equally spaced places, linear in between."""
    size = len(values)
    return jnp.interp(jnp.linspace(0.0, 1.0, steps + 1), jnp.linspace(0.0, 1.0, size), values)


def ends(process: Range, t_start: float | None, t_end: float | None) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The times to start and to end at, the process's range by default."""
    start = jnp.asarray(process.t_max if t_start is None else t_start, jnp.result_type(float))
    return start, jnp.asarray(process.t_min if t_end is None else t_end, jnp.result_type(float))


def between(
    process: Range,
    steps: int,
    t_start: float | None,
    t_end: float | None,
    coordinate: Callable[[Array], Array],
    time: Callable[[Array], Array],
    *,
    finite: str | None = None,
    progress: Callable[[Array], Array] = lambda u: u,
) -> Times:
    """Equal steps in ``coordinate(t)``; the two ends are exactly the times asked for.

    Args:
        process: only its range is used.
        steps: how many.
        t_start: ``t_max`` by default.
        t_end: ``t_min`` by default.
        coordinate: a monotone function of time.
        time: its inverse.
        finite: the name of the coordinate, if it can be infinite.
        progress: how much of the way is done after the fraction ``u`` of the steps, from 0 to 1.
    """
    checks.integer("steps", steps, low=1)
    start, end = ends(process, t_start, t_end)
    first, last = coordinate(start), coordinate(end)
    known = checks.concrete(jnp.stack([first, last]))
    if finite is not None and known is not None and not jnp.isfinite(known).all():
        raise ValueError(
            f"this schedule is spaced in {finite}, which must be finite at both ends, but the process has no "
            f"signal or no noise there (t_start={start:g}, t_end={end:g}): give t_start= and t_end= inside its range"
        )
    inner = time(first + progress(jnp.linspace(0.0, 1.0, steps + 1)[1:-1]) * (last - first))
    return validate(process, jnp.concatenate([start[None], inner, end[None]]))
