"""Sampling schedules: the ``steps + 1`` decreasing times ``t_0 > ... > t_N`` that a sampler visits.

Each is a pure function ``(process, steps, ...) -> times``; a schedule from anywhere else is just as good.
``rho = sigma / alpha`` below is the noise level in the scaling where the signal is 1 (EDM's sigma).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax.numpy as jnp

from jaxsamplers import checks

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from jaxsamplers.processes import Process

    Times = Float[Array, " n+1"]


def uniform(process: Process, steps: int, *, t_start: float | None = None, t_end: float | None = None) -> Times:
    """Equal steps in time: ``t_i = t_0 + (i/N) (t_N - t_0)``."""
    return _between(process, steps, t_start, t_end, lambda t: t, lambda u: u)


def quadratic(process: Process, steps: int, *, t_start: float | None = None, t_end: float | None = None) -> Times:
    """Equal steps in ``sqrt(t)``. Source: Song et al. 2021, DDIM (arXiv 2010.02502), app. D.2."""
    return _between(process, steps, t_start, t_end, jnp.sqrt, jnp.square)


def half_log_snr(process: Process, steps: int, *, t_start: float | None = None, t_end: float | None = None) -> Times:
    """Equal steps in ``log(alpha / sigma)``. Source: Lu et al. 2022, DPM-Solver (arXiv 2206.00927), sec. 3.4."""
    return _between(process, steps, t_start, t_end, process.half_log_snr, process.time, finite="the half-log-SNR")


def exponential(process: Process, steps: int, *, t_start: float | None = None, t_end: float | None = None) -> Times:
    """Geometric in ``rho``, k-diffusion's name for equal steps in the half-log-SNR."""
    return half_log_snr(process, steps, t_start=t_start, t_end=t_end)


def karras(
    process: Process,
    steps: int,
    *,
    t_start: float | None = None,
    t_end: float | None = None,
    rho: float = 7.0,
) -> Times:
    """Equal steps in ``(sigma / alpha)^(1 / rho)``. Source: Karras et al. 2022 (arXiv 2206.00364), eq. 5."""
    checks.within("rho", rho, 0.0, above=True)
    return _between(
        process,
        steps,
        t_start,
        t_end,
        lambda t: jnp.exp(-process.half_log_snr(t) / rho),
        lambda u: process.time(-rho * jnp.log(u)),
        finite="sigma / alpha",
    )


def cosine(process: Process, steps: int, *, t_start: float | None = None, t_end: float | None = None) -> Times:
    """Equal steps in the angle ``arctan(sigma / alpha)``: the noise levels of the cosine process at uniform times.

    Source: Salimans & Ho 2022, Progressive distillation (arXiv 2202.00512), sec. 2, ``alpha = cos(pi t / 2)``.
    """
    return _between(
        process,
        steps,
        t_start,
        t_end,
        lambda t: jnp.arctan2(process.sigma(t), process.alpha(t)),
        lambda angle: process.time(jnp.log(jnp.cos(angle)) - jnp.log(jnp.sin(angle))),
    )


def validate(process: Process, times: Times) -> Times:
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


def _between(
    process: Process,
    steps: int,
    t_start: float | None,
    t_end: float | None,
    coordinate: Callable[[Array], Array],
    time: Callable[[Array], Array],
    finite: str | None = None,
) -> Times:
    """Equal steps in ``coordinate(t)``; the two ends are exactly the times asked for."""
    checks.integer("steps", steps, low=1)
    start = jnp.asarray(process.t_max if t_start is None else t_start, jnp.result_type(float))
    end = jnp.asarray(process.t_min if t_end is None else t_end, jnp.result_type(float))
    first, last = coordinate(start), coordinate(end)
    known = checks.concrete(jnp.stack([first, last]))
    if finite is not None and known is not None and not jnp.isfinite(known).all():
        raise ValueError(
            f"this schedule is spaced in {finite}, which must be finite at both ends, but the process has no "
            f"signal or no noise there (t_start={start:g}, t_end={end:g}): give t_start= and t_end= inside its range"
        )
    fraction = jnp.linspace(0.0, 1.0, steps + 1)[1:-1]
    inner = time(first + fraction * (last - first))
    return validate(process, jnp.concatenate([start[None], inner, end[None]]))


registry: dict[str, Callable[..., Times]] = {
    "uniform": uniform,
    "quadratic": quadratic,
    "half_log_snr": half_log_snr,
    "exponential": exponential,
    "karras": karras,
    "cosine": cosine,
}
