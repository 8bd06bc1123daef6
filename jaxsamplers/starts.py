"""Where to start other than at noise: pure functions that make the sample at a later time.

For data ``N(mean, C)``, ``C = U diag(v) U^T``, the noisy marginal is ``N(alpha mean, alpha^2 C + sigma^2 I)``, and the
probability flow keeps every eigendirection to itself: deviations scale with their standard deviation,

    x' - alpha' mean = U diag(sqrt((alpha'^2 v + sigma'^2) / (alpha^2 v + sigma^2))) U^T (x - alpha mean)

At high noise real data follow the flow of the Gaussian with their mean and covariance, so the first network calls can
be replaced by this jump. A covariance is a number or an array shaped like a sample (diagonal), a matrix over flattened
samples, or, with ``axes [D, k]`` (orthonormal columns), the ``k`` variances along them and none elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.processes import Process, centre, uncentre

if TYPE_CHECKING:
    from jax.typing import ArrayLike
    from jaxtyping import Array, Float, Key

    Samples = Float[Array, "batch ..."]


def gaussian_teleport(
    process: Process,
    x: Samples,
    mean: Float[ArrayLike, "..."],
    covariance: Float[ArrayLike, "..."],
    t: float | Array,
    *,
    axes: Float[ArrayLike, "D k"] | None = None,
    t_start: float | None = None,
) -> Samples:
    """The probability flow of a Gaussian from ``t_start`` to ``t``, exactly, without a network.

    Sample on with a schedule that starts at ``t``.

    Args:
        process: the noise process.
        x: samples at ``t_start``.
        mean: of the data, shaped like a sample or broadcasting to it.
        covariance: of the data; see the module's docstring.
        t: where to go; the paper jumps over up to a third of the half-log-SNR range.
        axes: directions of a low-rank covariance.
        t_start: ``process.t_max`` by default.

    Raises:
        ValueError: shapes that do not fit.
    Source: Wang & Vastola 2024, The unreasonable effectiveness of Gaussian score approximation (arXiv 2412.09726).
    """
    start = process.t_max if t_start is None else t_start

    def flow(variance: Array) -> Array:
        return jnp.sqrt(_marginal(process, variance, t) / _marginal(process, variance, start))

    shape = x.shape[1:]
    mean = centre(jnp.broadcast_to(jnp.asarray(mean, x.dtype), shape), process.origin)
    away = centre(x, process.origin) - process.alpha(start).astype(x.dtype) * mean
    moved = _along(flow, away, jnp.asarray(covariance, x.dtype), axes)
    return uncentre(process.alpha(t).astype(x.dtype) * mean + moved, process.origin)


def gaussian_start(
    process: Process,
    key: Key[Array, ""],
    shape: tuple[int, ...],
    mean: Float[ArrayLike, "..."],
    covariance: Float[ArrayLike, "..."],
    t: float,
    *,
    axes: Float[ArrayLike, "D k"] | None = None,
) -> Samples:
    """A truncated start: draws from ``N(alpha mean, alpha^2 C + sigma^2 I)`` at ``t``, skipping all before it.

    Better than ``process.prior`` wherever a process ends before its signal is gone: the prior has neither the mean nor
    the spread of the data. Arguments and errors as ``gaussian_teleport``.

    Source: Lyu et al. 2022, Accelerating diffusion models via early stop (arXiv 2205.12524), with a Gaussian for the
        implicit law at the time of the stop.
    """
    z = jax.random.normal(key, shape, jnp.result_type(float))
    mean = centre(jnp.broadcast_to(jnp.asarray(mean, z.dtype), shape[1:]), process.origin)
    spread = _along(lambda v: jnp.sqrt(_marginal(process, v, t)), z, jnp.asarray(covariance, z.dtype), axes)
    return uncentre(process.alpha(t).astype(z.dtype) * mean + spread, process.origin)


def boost_and_skip(
    process: Process, key: Key[Array, ""], shape: tuple[int, ...], t: float, *, boost: float = 4.0
) -> Samples:
    """Noise louder than the process has it, at a time later than the first: stochastic samplers then reach rarer data.

    ``origin + boost sigma(t) z``. Boosted at ``t_max`` it would be forgotten before it matters; a few steps on
    (3 of 250 in the paper) it is not.

    Args:
        process: the noise process.
        key: PRNG key, or one per sample.
        shape: of the samples, ``(batch, ...)``.
        t: where to start, a little below ``t_max``.
        boost: standard deviation of the start as a multiple of the noise level; 2.5 to 4 in the paper.

    Raises:
        ValueError: a boost that is not positive.
    Source: Um, Kim & Ye 2025, Boost-and-Skip (arXiv 2502.06516).
    """
    checks.within("boost", boost, 0.0, above=True)
    noise = centre(process.prior(key, shape, t), process.origin)
    return uncentre(boost * noise, process.origin)


def best_start(
    draw: Callable[[Samples], Samples],
    candidates: Samples,
    references: Samples,
    distance: Callable[[Samples, Samples], Float[Array, ""]] | None = None,
) -> tuple[Float[Array, "..."], Float[Array, " candidates"]]:
    """One noise to start all restorations from: the candidate whose samples lie nearest to the references on average.

    With few steps the start matters to a conditional sampler that restores (super-resolution, say), and a good one is
    good for most inputs: find it once, on a few pairs, and keep it.

    Args:
        draw: from starts ``[references, ...]``, all equal, to samples: ``js.sample`` with the condition of each
            reference, ``js.guidance.conditional(model, {"low": low})``.
        candidates: noises to try, ``[candidates, ...]``, one after another.
        references: what should come out, ``[references, ...]``.
        distance: of all samples to all references, one number; the mean square of their difference by default.

    Returns:
        The best candidate, without batch axis, and the distance of each.

    Source: Ma et al. 2023, Solving diffusion ODEs with optimal boundary conditions for better image super-resolution
        (arXiv 2305.15357).
    """
    distance = distance or (lambda samples, references: jnp.mean((samples - references) ** 2))
    batch = references.shape[:1]
    distances = jax.lax.map(
        lambda start: distance(draw(jnp.broadcast_to(start, batch + start.shape)), references), candidates
    )
    return candidates[jnp.argmin(distances)], distances


def _marginal(process: Process, variance: Array, t: float | Array) -> Array:
    alpha, sigma = process.alpha(t).astype(variance.dtype), process.sigma(t).astype(variance.dtype)
    return alpha**2 * variance + sigma**2


def _along(function: Callable[[Array], Array], away: Array, covariance: Array, axes: ArrayLike | None) -> Array:
    """``f(C) away``, with ``f`` acting on the eigenvalues."""
    shape = away.shape[1:]
    flat = away.reshape(away.shape[0], -1)
    size = flat.shape[1]
    if axes is None and covariance.shape in ((), shape):
        return function(covariance) * away
    if axes is None and covariance.shape == (size, size):
        covariance, axes = jnp.linalg.eigh(covariance)
        covariance = jnp.maximum(covariance, 0.0)
    axes = None if axes is None else jnp.asarray(axes, away.dtype)
    if axes is None or axes.shape[:1] != (size,) or covariance.shape != axes.shape[1:]:
        raise ValueError(
            f"covariance must be a number, or of shape {shape}, {(size, size)} or, with axes of shape ({size}, k), "
            f"(k,); got {covariance.shape}" + ("" if axes is None else f" and axes of shape {axes.shape}")
        )
    rest = function(jnp.zeros((), away.dtype))
    inside = jnp.matmul(flat, axes, precision=jax.lax.Precision.HIGHEST) * (function(covariance) - rest)
    return (rest * flat + jnp.matmul(inside, axes.T, precision=jax.lax.Precision.HIGHEST)).reshape(away.shape)
