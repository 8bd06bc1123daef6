"""Distances between two sets of samples; every set is ``[n, ...]``, flattened to rows.

All are differentiable in the samples except where two points coincide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.core import as_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Array, Float, Key


def sliced_wasserstein(
    key: Key[Array, ""], x: Float[Array, "n ..."], y: Float[Array, "m ..."], *, projections: int = 128
) -> Float[Array, ""]:
    """Sliced Wasserstein-2 distance, in the units of the data.

    The root of the mean, over random directions, of the squared one-dimensional distance between quantile functions;
    sets of different sizes are compared at the quantiles of both.

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
    a, b = jnp.sort(a @ directions, axis=0), jnp.sort(b @ directions, axis=0)
    n, m = a.shape[0], b.shape[0]
    # the quantile functions are steps: every interval between two of their jumps has one value of each
    ends = jnp.sort(jnp.concatenate([jnp.arange(1, n + 1) / n, jnp.arange(1, m + 1) / m]))
    starts = jnp.concatenate([jnp.zeros(1, ends.dtype), ends[:-1]])
    middle = (starts + ends) / 2
    of = lambda points, count: points[jnp.clip((middle * count).astype(jnp.int32), 0, count - 1)]
    squared = (of(a, n) - of(b, m)) ** 2
    return jnp.sqrt(jnp.mean(jnp.sum((ends - starts)[:, None] * squared, axis=0)))


def energy_distance(x: Float[Array, "n ..."], y: Float[Array, "m ..."]) -> Float[Array, ""]:
    """``2 E|X - Y| - E|X - X'| - E|Y - Y'|`` over all pairs, in the units of the data; 0 for equal sets.

    Raises:
        ValueError: sets of different dimensions, or empty ones.
    Source: Szekely & Rizzo 2013, Energy statistics.
    """
    a, b = _rows(x, y)
    mean = lambda p, q: jnp.mean(_distances(p, q))
    return 2 * mean(a, b) - mean(a, a) - mean(b, b)


def mmd(
    x: Float[Array, "n ..."], y: Float[Array, "m ..."], *, bandwidths: Sequence[float] = (0.5, 1.0, 2.0, 4.0)
) -> Float[Array, ""]:
    """Unbiased squared maximum mean discrepancy with a sum of Gaussian kernels; around 0 for equal laws.

    Args:
        x: ``[n, ...]``, n above 1.
        y: ``[m, ...]``, m above 1.
        bandwidths: standard deviations of the kernels, in the units of the data.

    Raises:
        ValueError: sets of different dimensions or of fewer than two points, or a bandwidth that is not positive.
    Source: Gretton et al. 2012, A kernel two-sample test, eq. 3.
    """
    a, b = _rows(x, y)
    checks.within("bandwidths", jnp.asarray(bandwidths), 0.0, above=True)
    if min(a.shape[0], b.shape[0]) < 2:
        raise ValueError(f"mmd needs two points or more in each set, got {a.shape[0]} and {b.shape[0]}")
    kernel = lambda p, q: sum(jnp.exp(-0.5 * _squared(p, q) / s**2) for s in bandwidths)

    def within(p: Array) -> Array:
        n = p.shape[0]
        return (jnp.sum(kernel(p, p)) - n * len(bandwidths)) / (n * (n - 1))

    return within(a) + within(b) - 2 * jnp.mean(kernel(a, b))


def nearest_distance(
    x: Float[Array, "n ..."], reference: Float[Array, "m ..."], *, chunk: int = 256
) -> Float[Array, " n"]:
    """Euclidean distance from every sample to the nearest point of a reference set.

    Args:
        x: ``[n, ...]``.
        reference: ``[m, ...]``.
        chunk: how many samples are compared at once; memory is ``O(chunk x m x dimensions)``.

    Raises:
        ValueError: sets of different dimensions, or empty ones.
    """
    a, b = _rows(x, reference)
    checks.integer("chunk", chunk, low=1)
    return jax.lax.map(lambda row: jnp.sqrt(jnp.min(jnp.sum((row - b) ** 2, axis=1))), a, batch_size=chunk)


def frechet_distance(x: Float[Array, "n D"], y: Float[Array, "m D"]) -> Float[Array, ""]:
    """Squared Frechet distance between the Gaussians fitted to two sets of features (FID on any features).

    ``|mean_x - mean_y|^2 + tr(C_x + C_y - 2 (C_x^{1/2} C_y C_x^{1/2})^{1/2})``.

    Raises:
        ValueError: sets of different dimensions or of fewer than two points.
    Source: Dowson & Landau 1982; Heusel et al. 2017 (arXiv 1706.08500), eq. 6.
    """
    a, b = _rows(x, y)
    if min(a.shape[0], b.shape[0]) < 2:
        raise ValueError(f"a covariance needs two points or more, got {a.shape[0]} and {b.shape[0]}")
    c, d = jnp.atleast_2d(jnp.cov(a.T)), jnp.atleast_2d(jnp.cov(b.T))
    values, vectors = jnp.linalg.eigh(c)
    root = (vectors * jnp.sqrt(jnp.maximum(values, 0.0))) @ vectors.T
    cross = jnp.sum(jnp.sqrt(jnp.maximum(jnp.linalg.eigvalsh(root @ d @ root), 0.0)))
    return jnp.sum((a.mean(0) - b.mean(0)) ** 2) + jnp.trace(c) + jnp.trace(d) - 2 * cross


def _rows(x: Array, y: Array) -> tuple[Array, Array]:
    x, y = jnp.asarray(x), jnp.asarray(y)
    if x.ndim < 1 or y.ndim < 1 or x.shape[0] == 0 or y.shape[0] == 0 or x.shape[1:] != y.shape[1:]:
        raise ValueError(f"two non-empty sets of samples of one shape are compared, got {x.shape} and {y.shape}")
    return x.reshape(x.shape[0], -1), y.reshape(y.shape[0], -1)


def _squared(p: Array, q: Array) -> Array:
    return jnp.sum((p[:, None] - q[None]) ** 2, axis=-1)


def _distances(p: Array, q: Array) -> Array:
    squared = _squared(p, q)
    apart = squared > 0
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1.0)), 0.0)
