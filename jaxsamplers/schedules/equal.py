"""Schedules with equal steps in some measure of how much noise there is.

Written with ``rho = sigma / alpha``, the noise level where the signal is 1, and ``u = i / N``, which runs from 0 at the
first time to 1 at the last. Only ``rho`` (or the time itself) is named: the process turns it into a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.laws import LinearBeta, VariancePreserving, where_positive
from jaxsamplers.schedules.grid import between

if TYPE_CHECKING:
    from jaxtyping import Array

    from jaxsamplers.processes import Process
    from jaxsamplers.schedules.grid import Range, Times


def uniform(process: Range, steps: int, *, t_start: float | None = None, t_end: float | None = None) -> Times:
    """Equal steps in time: ``t_i = t_0 + u (t_N - t_0)``."""
    return between(process, steps, t_start, t_end, lambda t: t, lambda u: u)


def quadratic(process: Range, steps: int, *, t_start: float | None = None, t_end: float | None = None) -> Times:
    """Equal steps in ``sqrt(t)``. Source: Song et al. 2021, DDIM (arXiv 2010.02502), app. D.2."""
    return between(process, steps, t_start, t_end, lambda t: where_positive(jnp.sqrt, t, 0.0), jnp.square)


def half_log_snr(process: Process, steps: int, *, t_start: float | None = None, t_end: float | None = None) -> Times:
    """Equal steps in ``log(alpha / sigma)``. Source: Lu et al. 2022, DPM-Solver (arXiv 2206.00927), sec. 3.4."""
    return between(process, steps, t_start, t_end, process.half_log_snr, process.time, finite="the half-log-SNR")


def exponential(process: Process, steps: int, *, t_start: float | None = None, t_end: float | None = None) -> Times:
    """Geometric in ``rho``, k-diffusion's name for equal steps in the half-log-SNR."""
    return half_log_snr(process, steps, t_start=t_start, t_end=t_end)


def polyexponential(
    process: Process,
    steps: int,
    *,
    t_start: float | None = None,
    t_end: float | None = None,
    rho: float = 1.0,
) -> Times:
    """A polynomial in the logarithm: ``log(sigma / alpha)`` falls to its last value as ``(1 - u)^rho``.

    ``rho = 1`` is ``exponential``; above it, more steps lie near the data.
    Source: Crowson 2022, k-diffusion, ``get_sigmas_polyexponential``, in code only.
    """
    checks.within("rho", rho, 0.0, above=True)
    return between(
        process,
        steps,
        t_start,
        t_end,
        process.half_log_snr,
        process.time,
        finite="the half-log-SNR",
        progress=lambda u: 1 - (1 - u) ** rho,
    )


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
    return between(
        process,
        steps,
        t_start,
        t_end,
        lambda t: jnp.exp(-process.half_log_snr(t) / rho),
        lambda u: process.time(-rho * jnp.log(u)),
        finite="sigma / alpha",
    )


def vp(
    process: Process,
    steps: int,
    *,
    t_start: float | None = None,
    t_end: float | None = None,
    beta_min: float = 0.1,
    beta_max: float = 20.0,
) -> Times:
    """Equal steps in the time of ``vp_linear``: ``rho^2 = exp((beta_max - beta_min) s^2 / 2 + beta_min s) - 1``.

    On ``vp_linear`` itself it is ``uniform``.
    Source: Song et al. 2021 (arXiv 2011.13456); as a schedule in Karras et al. 2022 (arXiv 2206.00364),
    table 1, and k-diffusion's ``get_sigmas_vp`` with ``beta_d = beta_max - beta_min``.
    """
    checks.within("beta_min", beta_min, 0.0, above=True)
    checks.within("beta_max", beta_max, 0.0, above=True)
    law = VariancePreserving(LinearBeta(beta_min, beta_max))
    return between(
        process,
        steps,
        t_start,
        t_end,
        lambda t: law.time(process.half_log_snr(t)),
        lambda s: process.time(law.half_log_snr(s)),
        finite="the time of vp_linear",
    )


def arctan_uniform(
    process: Process,
    steps: int,
    *,
    t_start: float | None = None,
    t_end: float | None = None,
    std: float = 0.5,
) -> Times:
    """Equal steps in the angle ``arctan(sigma / (alpha std))``: what Gaussian data of that ``std`` want.

    For such data a DDIM step from ``rho = std tan(a)`` to ``std tan(b)`` multiplies ``x`` by ``cos(a) cos(a - b) /
    cos(b)``, and the flow by ``cos(a) / cos(b)``. The samples' spread is off by the product of the ``cos(a - b)``,
    which is nearest 1 for equal angles, and with it the divergence from the data.
    Source: Sabour et al. 2024, Align your steps (arXiv 2404.14507), theorem 3.1.
    """
    checks.within("std", std, 0.0, above=True)
    return between(
        process,
        steps,
        t_start,
        t_end,
        lambda t: jnp.arctan2(process.sigma(t), std * process.alpha(t)),
        lambda angle: process.time(jnp.log(jnp.cos(angle)) - jnp.log(jnp.sin(angle)) - jnp.log(std)),
    )


def cosine(process: Process, steps: int, *, t_start: float | None = None, t_end: float | None = None) -> Times:
    """Equal steps in the angle ``arctan(sigma / alpha)``: the noise levels of the cosine process at uniform times.

    It is ``arctan_uniform`` for data of unit spread.
    Source: Salimans & Ho 2022, Progressive distillation (arXiv 2202.00512), sec. 2, ``alpha = cos(pi t / 2)``.
    """
    return arctan_uniform(process, steps, t_start=t_start, t_end=t_end, std=1.0)


def kl_optimal(process: Process, steps: int, *, t_start: float | None = None, t_end: float | None = None) -> Times:
    """Equal steps in ``arctan(sigma / alpha)``, the name of ``cosine`` in A1111's and ComfyUI's menus."""
    return cosine(process, steps, t_start=t_start, t_end=t_end)


def sigmoid(
    process: Process,
    steps: int,
    *,
    t_start: float | None = None,
    t_end: float | None = None,
    start: float = -3.0,
    end: float = 3.0,
    tau: float = 1.0,
) -> Times:
    """The noise levels of the sigmoid process at uniform times: the signal's share of power falls as a sigmoid.

    With ``y = (start + s (end - start)) / tau`` and the logistic function L, that process has ``alpha^2(s) =
    (L(end / tau) - L(y)) / (L(end / tau) - L(start / tau))`` and ``sigma^2 = 1 - alpha^2``. A difference of two L is a
    ``sinh`` over two ``cosh``, so ``alpha^2 / sigma^2 = c sinh(D - v) / sinh(v)`` with ``v = (y - start / tau) / 2``
    from 0 to ``D = (end - start) / (2 tau)``, which can be solved for ``v`` without loss at either end.

    Source: Jabri et al. 2022, RIN (arXiv 2212.11972); Chen 2023, On the importance of noise scheduling (arXiv
    2301.10972), whose numbers these are. Both train and sample with it.
    """
    checks.within("tau", tau, 0.0, above=True)
    checks.within("end - start", jnp.asarray(end - start), 0.0, above=True)
    half = (end - start) / (2 * tau)
    scale = jnp.cosh(start / (2 * tau)) / jnp.cosh(end / (2 * tau))

    def coordinate(t: Array) -> Array:
        signal, noise = jax.nn.sigmoid(2 * process.half_log_snr(t)), jax.nn.sigmoid(-2 * process.half_log_snr(t))
        return 0.5 * jnp.log1p(2 * jnp.sinh(half) * noise / (signal / scale + jnp.exp(-half) * noise))

    def time(v: Array) -> Array:
        return process.time(0.5 * (jnp.log(scale) + jnp.log(jnp.sinh(half - v)) - jnp.log(jnp.sinh(v))))

    return between(process, steps, t_start, t_end, coordinate, time)
