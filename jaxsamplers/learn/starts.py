"""Starting late: what a sampler begins with when its first time is below ``t_max``, and is learned.

At high noise all data look alike, and network calls there buy little. A start is a function ``(process, x, t) -> x``
that takes the noise it is given at ``t_max`` to the time ``t`` without the network,

    truncated   x' = sigma' / sigma x                      nothing is known of the data but that they are about 0
    teleport    the exact flow of a Gaussian with the data's mean and covariance, see ``js.starts``

and is differentiable in ``t``, so that ``parameters(ends=True)`` finds the time where it pays to begin:

    times      = js.schedules.half_log_snr(process, 5, t_start=0.7)      # an end may only move where there is room
    parameters = js.learn.parameters(process, 5, schedule=times, ends=True)
    build      = js.learn.builder(js.solvers.unipc, process, start=js.learn.teleport(mean, covariance))

Source: Wang & Vastola 2024, The unreasonable effectiveness of Gaussian score approximation (arXiv 2412.09726); Lyu et
al. 2022, Accelerating diffusion models via early stop (arXiv 2205.12524), for a start that knows less.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.processes import Process, centre, uncentre
from jaxsamplers.starts import gaussian_teleport

if TYPE_CHECKING:
    from jax.typing import ArrayLike
    from jaxtyping import Array, Float, PyTree

    Samples = Float[Array, "batch ..."]


def truncated(process: Process, x: PyTree, t: Array) -> PyTree:
    """Noise at ``t_max`` as noise of the size that ``t`` has; at ``t_max`` it is what it was.

    Right where the data are negligible beside the noise: their mean and spread are left out.

    Args:
        process: the noise process.
        x: noises at ``process.t_max``, any pytree.
        t: where to go.
    """
    shrink = process.sigma(t) / process.sigma(process.t_max)
    return uncentre(
        jax.tree.map(lambda leaf: shrink.astype(leaf.dtype) * leaf, centre(x, process.origin)), process.origin
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Teleport:
    """See ``teleport``.

    Attributes:
        mean: of the data.
        variances: of the data, one number, one of each entry of a sample, or one along each of ``axes``.
        axes: orthonormal directions, ``[D, k]``, or ``None`` for the axes of the space.
    """

    mean: Float[Array, "..."]
    variances: Float[Array, "..."]
    axes: Float[Array, "D k"] | None = None

    def __call__(self, process: Process, x: Samples, t: Array) -> Samples:
        """The sample at ``t`` of the flow that is at ``x`` at ``t_max``."""
        return gaussian_teleport(process, x, self.mean, self.variances, t, axes=self.axes)


def teleport(
    mean: Float[ArrayLike, "..."], covariance: Float[ArrayLike, "..."], *, axes: Float[ArrayLike, "D k"] | None = None
) -> Teleport:
    """The probability flow of a Gaussian from ``t_max``, exactly; a matrix is taken apart here, once.

    Args:
        mean: of the data, shaped like a sample.
        covariance: a number or an array shaped like a sample (a variance a pixel), a matrix over flattened samples, or,
            with ``axes``, the variances along them, and none elsewhere.
        axes: orthonormal directions of a low-rank covariance.

    Raises:
        ValueError: variances below 0 or axes that are no matrix; when called, shapes that do not fit the samples.
    Source: Wang & Vastola 2024 (arXiv 2412.09726).
    """
    centre_of, spread = jnp.asarray(mean, jnp.result_type(float)), jnp.asarray(covariance, jnp.result_type(float))
    size = centre_of.size
    if axes is None and spread.shape in ((), centre_of.shape):
        checks.within("covariance", spread, 0.0)
        return Teleport(centre_of, spread)
    if axes is None:
        if spread.shape != (size, size):
            raise ValueError(
                f"covariance must be a number, or of shape {centre_of.shape}, or a matrix of shape {(size, size)} "
                f"for a mean of shape {centre_of.shape}, got shape {spread.shape}"
            )
        spread, directions = jnp.linalg.eigh(spread)
        spread = jnp.where((spread < 0) & (spread > -1e-6 * spread.max()), 0.0, spread)  # rounding
    else:
        directions = jnp.asarray(axes, centre_of.dtype)
    checks.within("the covariance's eigenvalues", spread, 0.0)
    if directions.ndim != 2 or spread.shape != directions.shape[1:]:
        raise ValueError(
            f"axes must be a matrix of one direction a column, [D, k], with the k variances along them as covariance, "
            f"got axes of shape {directions.shape} and covariance of shape {spread.shape}"
        )
    return Teleport(centre_of, spread, directions)


def teleport_to(data: Float[ArrayLike, "count ..."], *, rank: int | None = None) -> Teleport:
    """``teleport`` with the mean and the covariance of samples of the data.

    Args:
        data: samples, ``[count, ...]``.
        rank: how many principal directions are kept, the widest ones; all by default.

    Raises:
        ValueError: fewer than two samples, or a rank that they do not have.
    """
    data = jnp.asarray(data, jnp.result_type(float))
    if data.ndim < 2 or len(data) < 2:
        raise ValueError(f"data must be at least two samples, [count, ...], got shape {data.shape}")
    mean = data.mean(axis=0)
    away = (data - mean).reshape(len(data), -1)
    full = min(away.shape)
    rank = full if rank is None else checks.integer("rank", rank, low=1, high=full)
    _, spread, axes = jnp.linalg.svd(away, full_matrices=False)
    return Teleport(mean, spread[:rank] ** 2 / len(data), axes[:rank].T)
