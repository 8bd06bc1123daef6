"""Distances between two sets of samples, and from samples to the data they may have been copied from.

Every set is ``[n, ...]``, flattened to rows ``[n, D]``; the two may differ in size. What each sees, its units, and what
it says of two sets drawn from one distribution:

    sliced_wasserstein   random one-dimensional views       units of the data   above 0, about n^(-1/2)
    energy_distance      all of the distribution            units of the data   above 0, about E|x - x'| (1/n + 1/m)
    mmd                  differences at the bandwidths      none                0 on average, may be negative
    frechet_distance     means and covariances only         squared units       above 0, about D^2 / n
    nearest_distance     one number a sample                units of the data   0 for a copy

So a distance means little alone: set beside it that of as many true samples. None of the first four notices
memorising, which looks like a perfect fit to them; ``nearest_distance`` does. All are differentiable in both sets, with
gradient zero where two points coincide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from jaxsamplers import checks
from jaxsamplers.core import as_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jax.typing import ArrayLike
    from jaxtyping import Array, Float, Int, Key

    Set = Float[ArrayLike, "n ..."]
    Rows = Float[Array, "n D"]
    Scalar = Float[Array, ""]

HIGHEST = jax.lax.Precision.HIGHEST


def sliced_wasserstein(key: Key[Array, ""], x: Set, y: Set, *, projections: int = 128) -> Scalar:
    """Sliced Wasserstein-2 distance, in the units of the data.

    The root of the mean, over random directions, of the squared one-dimensional distance. Exact in one dimension;
    a shift by ``v`` counts as about ``|v| / sqrt(D)``.

    Args:
        key: PRNG key of the directions.
        x: ``[n, ...]``.
        y: ``[m, ...]``.
        projections: how many directions.

    Raises:
        ValueError: sets of different dimensions, empty ones, or fewer than one direction.
    Source: Bonneel et al. 2015, Sliced and Radon Wasserstein barycenters of measures.
    """
    a, b = _rows(x, y)
    checks.integer("projections", projections, low=1)
    directions = jax.random.normal(as_key(key), (a.shape[1], projections), a.dtype)
    directions = directions / jnp.linalg.norm(directions, axis=0)
    a, b = (jnp.sort(jnp.matmul(p, directions, precision=HIGHEST), axis=0) for p in (a, b))
    i, j, mass = _coupling(len(a), len(b))
    transport = jnp.sum(jnp.asarray(mass, a.dtype)[:, None] * (a[i] - b[j]) ** 2, axis=0)
    return _root(jnp.mean(transport))


def energy_distance(x: Set, y: Set) -> Scalar:
    """``2 E|X - Y| - E|X - X'| - E|Y - Y'|`` over all pairs, in the units of the data; 0 for equal sets only.

    Args:
        x: ``[n, ...]``.
        y: ``[m, ...]``; memory is ``O((n + m)^2)``, whatever the dimension.

    Raises:
        ValueError: sets of different dimensions, or empty ones.
    Source: Szekely & Rizzo 2013, Energy statistics.
    """
    a, b = _rows(x, y)
    within = lambda p: jnp.mean(_root(_off_diagonal(_squares(p, p))))
    return 2 * jnp.mean(_root(_squares(a, b))) - within(a) - within(b)


def mmd(x: Set, y: Set, *, bandwidths: Sequence[float] = (0.5, 1.0, 2.0, 4.0)) -> Scalar:
    """Unbiased squared maximum mean discrepancy with a sum of Gaussian kernels; around 0 for equal laws.

    Args:
        x: ``[n, ...]``, n above 1.
        y: ``[m, ...]``, m above 1; memory is ``O((n + m)^2)``.
        bandwidths: standard deviations of the kernels, in the units of the data; some should be near the distances
            between samples, or all samples look alike or none do.

    Raises:
        ValueError: sets of different dimensions or of fewer than two points, or a bandwidth that is not positive.
    Source: Gretton et al. 2012, A kernel two-sample test, eq. 3.
    """
    a, b = _rows(x, y)
    if not len(bandwidths):
        raise ValueError("bandwidths must hold one number or more, got none")
    checks.within("bandwidths", np.asarray(bandwidths), 0.0, above=True)
    if min(len(a), len(b)) < 2:
        raise ValueError(f"mmd needs two points or more in each set, got {len(a)} and {len(b)}")

    def kernel(p: Rows, q: Rows) -> Float[Array, "n m"]:
        squares = _squares(p, q)
        return sum((jnp.exp(-0.5 * squares / s**2) for s in bandwidths), start=jnp.zeros_like(squares))

    within = lambda p: jnp.sum(_off_diagonal(kernel(p, p))) / (len(p) * (len(p) - 1))
    return within(a) + within(b) - 2 * jnp.mean(kernel(a, b))


def nearest_distance(x: Set, reference: Set, *, chunk: int = 4096) -> Float[Array, " n"]:
    """Euclidean distance from every sample to the nearest point of a reference set, in the units of the data.

    Args:
        x: ``[n, ...]``.
        reference: ``[m, ...]``.
        chunk: how many points of the reference are compared at once; memory is ``O(n x chunk)``.

    Raises:
        ValueError: sets of different dimensions, empty ones, or a chunk below 1.
    """
    a, b = _rows(x, reference)
    size = min(checks.integer("chunk", chunk, low=1), len(b))
    padded = jnp.pad(b, [(0, -len(b) % size), (0, 0)], mode="edge")  # repeats a point: no distance changes
    blocks = jax.lax.stop_gradient(padded.reshape(-1, size, b.shape[1]))
    fixed = jax.lax.stop_gradient(a)

    def closer(best: tuple[Array, Array], block: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        first, points = block
        squares = _squares(fixed, points)
        index = jnp.argmin(squares, axis=1)
        least = jnp.take_along_axis(squares, index[:, None], axis=1)[:, 0]
        nearer = least < best[0]
        return (jnp.where(nearer, least, best[0]), jnp.where(nearer, first + index.astype(first.dtype), best[1])), None

    start = jnp.full_like(a[:, 0], jnp.inf), jnp.zeros_like(a[:, 0], jnp.int32)
    firsts = size * jnp.arange(len(blocks), dtype=jnp.int32)
    (_, index), _ = jax.lax.scan(closer, start, (firsts, blocks))
    return _root(jnp.sum((a - padded[index]) ** 2, axis=1))  # again, without cancellation: a copy is at exactly 0


def frechet_distance(x: Set, y: Set) -> Scalar:
    """Squared Frechet distance between the Gaussians fitted to two sets of features (FID on any features).

    ``|mean_x - mean_y|^2 + tr(C_x + C_y - 2 (C_x^{1/2} C_y C_x^{1/2})^{1/2})``. With ``C_x = A'A`` and ``C_y = B'B``
    the trace of that root is the sum of the singular values of ``A B'``: no covariance is formed or rooted, so
    singular ones (constant features, few samples) cost no accuracy. Its gradient does need them to have full rank.

    Args:
        x: ``[n, ...]``, n above 1.
        y: ``[m, ...]``, m above 1.

    Raises:
        ValueError: sets of different dimensions or of fewer than two points.
    Source: Dowson & Landau 1982; Heusel et al. 2017 (arXiv 1706.08500), eq. 6.
    """
    a, b = _rows(x, y)
    if min(len(a), len(b)) < 2:
        raise ValueError(f"a covariance needs two points or more, got {len(a)} and {len(b)}")
    shift = jnp.mean(a, axis=0) - jnp.mean(b, axis=0)
    a, b = _covariance_factor(a), _covariance_factor(b)
    common = jnp.linalg.svd(jnp.matmul(a, b.T, precision=HIGHEST), compute_uv=False)
    return jnp.sum(shift**2) + jnp.sum(a**2) + jnp.sum(b**2) - 2 * jnp.sum(common)


def _rows(x: Set, y: Set) -> tuple[Rows, Rows]:
    """Both sets flattened, in one floating-point type: differences of bytes would wrap around."""
    x, y = jnp.asarray(x), jnp.asarray(y)
    if x.ndim < 1 or y.ndim < 1 or x.size == 0 or y.size == 0 or x.shape[1:] != y.shape[1:]:
        raise ValueError(f"two non-empty sets of samples of one shape are compared, got {x.shape} and {y.shape}")
    dtype = jnp.promote_types(jnp.promote_types(x.dtype, y.dtype), jnp.float32)
    return x.reshape(len(x), -1).astype(dtype), y.reshape(len(y), -1).astype(dtype)


def _squares(p: Rows, q: Rows) -> Float[Array, "n m"]:
    """Squared distances by one product of matrices; centred, because the expanded square cancels."""
    centre = jax.lax.stop_gradient(jnp.mean(q, axis=0))
    p, q = p - centre, q - centre
    expanded = jnp.sum(p**2, axis=1)[:, None] + jnp.sum(q**2, axis=1) - 2 * jnp.matmul(p, q.T, precision=HIGHEST)
    return jnp.maximum(expanded, 0.0)


def _off_diagonal(square: Float[Array, "n n"]) -> Float[Array, "n n"]:
    return jnp.where(jnp.eye(len(square), dtype=bool), 0.0, square)


def _root(squares: Float[Array, "..."]) -> Float[Array, "..."]:
    """The square root, with gradient 0 at 0."""
    positive = squares > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1.0)), 0.0)


def _coupling(n: int, m: int) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """The monotone coupling of ``n`` and of ``m`` equal masses: pairs of ranks, and the mass that each pair shares.

    In units of ``1 / (n m)`` a rank of the first set covers ``m`` units and one of the second ``n``: cut at every end.
    """
    ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
    starts = np.concatenate([[0], ends[:-1]])
    return starts // m, starts // n, (ends - starts) / (n * m)


def _covariance_factor(points: Rows) -> Float[Array, "k D"]:
    """``A`` with ``A'A`` the covariance, of as few rows as it takes."""
    scaled = (points - jnp.mean(points, axis=0)) / np.sqrt(len(points) - 1.0).astype(points.dtype)
    return jnp.linalg.qr(scaled, mode="r") if len(points) > points.shape[1] else scaled
