"""Schedules of flow models, whose noise is stronger for larger images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.schedules.grid import between, validate

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from jaxsamplers.processes import Process
    from jaxsamplers.schedules.grid import Times


def shift(process: Process, times: Times, factor: float | Float[Array, ""]) -> Times:
    """Any schedule with ``sigma / alpha`` multiplied by ``factor``: ``t' = s t / (1 + (s - 1) t)`` on a rectified flow.

    An image of ``m`` times as many pixels shows the same picture under ``sqrt(m)`` times the noise. The ends of a flow,
    where there is no noise and no signal, stay where they are.

    Args:
        process: what ``times`` belong to.
        times: a schedule.
        factor: above 1 spends more steps near the noise.

    Raises:
        ValueError: a factor that is not positive, times outside the process's range afterwards.
    Source: Esser et al. 2024, Stable Diffusion 3 (arXiv 2403.03206), eq. 23; Hoogeboom et al. 2023, Simple diffusion
        (arXiv 2301.11093), in the log-SNR.
    """
    checks.within("factor", factor, 0.0, above=True)
    return validate(process, process.time(process.half_log_snr(validate(process, times)) - jnp.log(factor)))


def flow_shift(
    process: Process,
    steps: int,
    *,
    t_start: float | None = None,
    t_end: float | None = None,
    factor: float | Float[Array, ""] = 3.0,
) -> Times:
    """Equal steps in time before a ``shift``: ``t = s w / (1 + (s - 1) w)`` of equally spaced ``w`` on a flow.

    ``factor=resolution_factor(tokens)`` is Flux's.
    Source: Esser et al. 2024, Stable Diffusion 3 (arXiv 2403.03206), eq. 23, whose users shift by 3.
    """
    checks.within("factor", factor, 0.0, above=True)
    log = jnp.log(factor)
    return between(
        process,
        steps,
        t_start,
        t_end,
        lambda t: process.time(process.half_log_snr(t) + log),
        lambda w: process.time(process.half_log_snr(w) - log),
    )


def resolution_factor(
    tokens: int,
    *,
    small: tuple[int, float] = (256, 0.5),
    large: tuple[int, float] = (4096, 1.15),
) -> float:
    """The factor to ``shift`` by for an image of so many tokens: ``exp(mu)``, ``mu`` linear in the number of tokens.

    Args:
        tokens: length of the image's sequence; for Flux a sixteenth of its height times a sixteenth of its width.
        small: tokens and ``mu`` of one image size, Flux's ``base_image_seq_len`` and ``base_shift`` by default.
        large: of another.

    Raises:
        ValueError: two sizes that are one.

    Source: Black Forest Labs 2024, Flux, ``get_lin_function`` in its sampling code; there is no paper.
    """
    checks.integer("tokens", tokens, low=1)
    if small[0] == large[0]:
        raise ValueError(f"small and large must have different numbers of tokens, got {small} and {large}")
    slope = (large[1] - small[1]) / (large[0] - small[0])
    return math.exp(small[1] + slope * (tokens - small[0]))


def linear_quadratic(
    process: Process,
    steps: int,
    *,
    t_start: float | None = None,
    t_end: float | None = None,
    threshold: float = 0.025,
    linear_steps: int | None = None,
) -> Times:
    """Small equal steps in time near the noise, then growing ones: ``L`` steps cover ``threshold``, the rest the rest.

    After ``i`` of ``N`` steps the fraction ``h i / L + q max(i - L, 0)^2`` of the time has passed, ``h`` the threshold
    and ``q = (1 - h N / L) / (N - L)^2``: the steps grow from where the linear part ends without a jump.

    Args:
        process: only its range is used.
        steps: ``N``.
        t_start: ``t_max`` by default.
        t_end: ``t_min`` by default.
        threshold: between 0 and 1.
        linear_steps: ``L``, from 1 to ``steps - 1``; half of the steps by default.

    Raises:
        ValueError: numbers out of range.
    Source: Polyak et al. 2024, Movie Gen (arXiv 2410.13720), which imitates the first steps of a schedule of 1000:
        ``threshold = linear_steps / 1000``. The form of the code of Mochi 1 and of ComfyUI, whose default is 0.025 at
        any number of steps.
    """
    checks.integer("steps", steps, low=1)
    checks.within("threshold", threshold, 0.0, 1.0, above=True)
    linear = steps // 2 if linear_steps is None else checks.integer("linear_steps", linear_steps, 1, max(steps - 1, 1))
    growth = (1 - threshold * steps / max(linear, 1)) / max(steps - linear, 1) ** 2

    def progress(u: Array) -> Array:
        i = u * steps
        return threshold * i / max(linear, 1) + growth * jnp.maximum(i - linear, 0.0) ** 2

    return between(process, steps, t_start, t_end, lambda t: t, lambda u: u, progress=progress)
