"""Schedules that put the density of steps where a probability law has its mass."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.schedules.grid import between, ends, validate

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from jaxsamplers.processes import Process
    from jaxsamplers.schedules.grid import Times

    PerStep = Float[Array, " n"]

TERMS = 64  # of the series below, each at most about half of the one before


def beta(
    process: Process,
    steps: int,
    *,
    t_start: float | None = None,
    t_end: float | None = None,
    alpha: float = 0.6,
    beta: float = 0.6,
) -> Times:
    """Quantiles of a Beta law in time, ``t = t_N + (t_0 - t_N) F^-1(1 - u)``: dense at both ends.

    Both parameters can be learned: the gradient goes through the inverse distribution function ``F^-1``.

    Args:
        process: only its range is used.
        steps: how many.
        t_start: ``t_max`` by default.
        t_end: ``t_min`` by default.
        alpha: below 1, dense near the data; at most 10.
        beta: below 1, dense near the noise; at most 10.

    Raises:
        ValueError: parameters out of range.
    Source: Lee et al. 2024, Beta sampling is all you need (arXiv 2407.12173). ComfyUI rounds the time to its
        table; diffusers' ``use_beta_sigmas`` spaces ``sigma`` in this way and not the time, as ``edm`` does here.
    """
    checks.integer("steps", steps, low=1)
    checks.within("alpha", alpha, 0.0, 10.0, above=True)
    checks.within("beta", beta, 0.0, 10.0, above=True)
    start, end = ends(process, t_start, t_end)
    done = jnp.arange(1, steps) / steps
    left = jnp.arange(1, steps)[::-1] / steps  # 1 - u has fewer digits
    below, above = _beta_quantile(left, done, jnp.asarray(alpha, done.dtype), jnp.asarray(beta, done.dtype))
    inner = jnp.where(below < above, end + below * (start - end), start - above * (start - end))
    return validate(process, jnp.concatenate([start[None], inner, end[None]]))


def laplace(
    process: Process,
    steps: int,
    *,
    t_start: float | None = None,
    t_end: float | None = None,
    mean: float = 0.0,
    scale: float = 0.5,
) -> Times:
    """Quantiles of a Laplace law in the half-log-SNR: ``log(alpha / sigma) = F^-1(u)``, dense around ``mean``.

    Equal steps in the distribution function between the two ends, so that it starts and ends where it should, with
    infinite half-log-SNR too.

    Source: Hang et al. 2024, Improved noise schedule (arXiv 2407.03297), which draws ``log(alpha^2 /
    sigma^2)`` of training from it; ComfyUI's scheduler has its ``mu`` and ``beta`` for ``log sigma``, which are these
    (with ``mean = -mu``), and clips what lies outside its range.
    """
    checks.within("scale", scale, 0.0, above=True)

    def coordinate(t: Array) -> Array:
        away = (process.half_log_snr(t) - mean) / scale
        return jnp.expm1(jnp.minimum(away, 0.0)) - jnp.expm1(-jnp.maximum(away, 0.0))  # 2 F - 1

    def time(c: Array) -> Array:
        away = jnp.log1p(jnp.minimum(c, 0.0)) - jnp.log1p(-jnp.maximum(c, 0.0))
        return process.time(mean + scale * away)

    return between(process, steps, t_start, t_end, coordinate, time)


@jax.jit
def _beta_quantile(mass: PerStep, rest: PerStep, alpha: Array, beta: Array) -> tuple[PerStep, PerStep]:
    """``x`` and ``1 - x`` where ``F(x) = mass = 1 - rest``: the smaller is solved for, so that neither loses digits.

    With ``B(x)`` the incomplete Beta integral, ``log B`` is a convex or concave function of ``log x`` and nearly
    ``log x^a / a``; Newton's steps from there all go one way. The last one carries the gradient.
    """
    masses = _incomplete(0.5, alpha, beta), _incomplete(0.5, beta, alpha)
    total = masses[0] + masses[1]
    lower = mass * total < masses[0]
    a, b = jnp.where(lower, alpha, beta), jnp.where(lower, beta, alpha)
    target = jnp.log(jnp.where(lower, mass, rest) * total)

    def newton(log_x: PerStep, a: PerStep, b: PerStep, target: PerStep) -> PerStep:
        fixed = jax.lax.stop_gradient(log_x)
        log_mass = jnp.log(_incomplete(jnp.exp(fixed), a, b))
        slope = jnp.exp(a * fixed + (b - 1) * jnp.log1p(-jnp.exp(fixed)) - log_mass)
        return fixed - (log_mass - target) / jax.lax.stop_gradient(slope)

    known, half = jax.lax.stop_gradient((a, b, target)), jnp.log(0.5)
    first = jnp.minimum((jnp.log(known[0]) + known[2]) / known[0], half)
    near = jax.lax.fori_loop(0, 20, lambda _, log_x: jnp.minimum(newton(log_x, *known), half), first)
    x = jnp.exp(newton(near, a, b, target))
    return jnp.where(lower, x, 1 - x), jnp.where(lower, 1 - x, x)


def _incomplete(x: PerStep | float, a: Array, b: Array) -> Array:
    """``int_0^x t^(a-1) (1 - t)^(b-1) dt`` for ``x <= 1/2``, from a series of positive terms.

    Source: NIST Digital Library of Mathematical Functions, eq. 8.17.8.
    """
    x, a, b = jnp.asarray(x)[..., None], a[..., None], b[..., None]
    n = jnp.arange(TERMS)
    ratios = jnp.where(n > 0, (a + b + n - 1) / (a + n), 1.0) * jnp.where(n > 0, x, 1.0)
    return (x**a * (1 - x) ** b / a)[..., 0] * jnp.cumprod(ratios, axis=-1).sum(axis=-1)
