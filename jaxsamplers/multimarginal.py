"""Multimarginal interpolants: from any of several laws to any other, or to a mixture of their samples.

With ``x_k`` drawn from law ``k``, coupled in any way, and ``c`` in the simplex (``c_k >= 0``, ``sum_k c_k = 1``),

    x(c) = sum_k c_k x_k        g_k(x, c) = E[x_k | x(c) = x]        sum_k c_k g_k = x

Networks learn all the ``g_k`` by regression, once; then along any curve ``c(t)`` the solutions of

    dX = (sum_k c_k' g_k - (epsilon / c_1) g_1) dt + sqrt(2 epsilon) dW

have the law of ``x(c(t))``, where ``epsilon > 0`` asks that the first law be ``N(0, I)``: then ``-g_1 / c_1`` is the
score. A curve is the array of its points.

Source: Albergo, Boffi, Lindsey & Vanden-Eijnden 2023, Multimarginal generative modeling with stochastic interpolants
    (arXiv 2310.03695), sec. 2 - 3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxsamplers import checks
from jaxsamplers.denoisers import as_pytree
from jaxsamplers.interpolants import euler_table, heun_table, step_noise
from jaxsamplers.laws import where_positive

if TYPE_CHECKING:
    from jaxtyping import Array, Float, PyTree

    from jaxsamplers.tableau import Tableau


def drift(model: Callable[..., Any]) -> Callable[..., Any]:
    """``(x, t, point, rate) -> sum_k rate_k g_k``, for the tables of ``euler`` and ``heun``; a pytree.

    Args:
        model: ``(x, point, **extra) -> (g_1, ..., g_K)``, each shaped like ``x``; ``point`` is ``[K]``.
    """
    return Partial(_drift, as_pytree(model))


def euler(points: Float[Array, "n+1 K"], *, diffusion: float | Float[Array, " n+1"] = 0.0) -> Tableau:
    """Euler's method along a curve in the simplex, from point to point in unit time; one model call a step.

    Args:
        points: barycentric coordinates, each at least 0 and of sum 1: from a corner to another, or anywhere between.
        diffusion: ``epsilon``; positive only if the first law is ``N(0, I)``, whose ``g_1 / c_1`` is minus the score.
            A number or one per point, 0 where ``c_1`` is.

    Raises:
        ValueError: points outside the simplex, a diffusion that is negative, or not 0 where ``c_1`` is.
    """
    times, rates, pull, noise = _along(points, diffusion, every=False)
    point = jnp.asarray(points, times.dtype)[:-1]
    return euler_table(times, {"point": point, "rate": _pulled(rates, pull[:-1])}, noise)


def heun(points: Float[Array, "n+1 K"], *, diffusion: float | Float[Array, " n+1"] = 0.0) -> Tableau:
    """Heun's method along a curve in the simplex; two model calls a step. Arguments and errors as ``euler``."""
    times, rates, pull, noise = _along(points, diffusion, every=True)
    point = jnp.asarray(points, times.dtype)
    first = {"point": point[:-1], "rate": _pulled(rates, pull[:-1])}
    return heun_table(times, first, {"point": point[1:], "rate": _pulled(rates, pull[1:])}, noise)


def _drift(model: Callable[..., Any], x: PyTree, t: Array, *, point: Array, rate: Array, **extra: Any) -> PyTree:
    parts = model(x, point, **extra)
    return jax.tree.map(lambda *leaves: sum(r.astype(g.dtype) * g for r, g in zip(rate, leaves, strict=True)), *parts)


def _along(points: Array, diffusion: Any, every: bool) -> tuple[Array, Array, Array, Array | None]:
    """Unit time, ``c'`` on every chord, ``epsilon / c_1`` and the noise of every step."""
    points = jnp.asarray(points, jnp.result_type(float))
    if points.ndim != 2 or points.shape[0] < 2:
        raise ValueError(f"points must have shape [steps + 1, laws], got {points.shape}")
    known = checks.concrete(points)
    if known is not None and not ((known >= 0).all() and (abs(known.sum(axis=1) - 1) < 1e-5).all()):
        raise ValueError(f"points must be non-negative coordinates of sum 1, got {known}")
    times = jnp.linspace(0.0, 1.0, points.shape[0])
    epsilon, noise = step_noise(times, diffusion, points[:, 0], "the first coordinate", every)
    rates = (points[1:] - points[:-1]) * (points.shape[0] - 1)
    return times, rates, epsilon * where_positive(lambda c: 1 / c, points[:, 0], 0.0), noise


def _pulled(rates: Array, pull: Array) -> Array:
    """The first law's rate, less ``epsilon / c_1``: the score's part."""
    return rates.at[:, 0].add(-pull)
