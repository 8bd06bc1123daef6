"""Empirical model statistics: how a network behaves along the flow, measured once, for ``solvers.dpm_solver_v3``.

In half-log-SNR ``u``, with ``y = x / alpha`` and the denoiser ``m``, the probability flow is ``dy/du = m - y``. For any
``l(u)``, ``s(u)``, ``b(u)``, one number for each number of a sample,

    dy/du = -l y - f          f = (1 - l) y - m         f' = s f + b + what is left

and a solver that integrates ``l``, ``s``, ``b`` exactly errs only through what is left. The best of them are

    l   makes f least sensitive to x: minimal E |df/dx|^2, so l = 1 - E[diag dm/dy]
    s, b   the regression of f' on f, number by number: s = cov(f, f') / var(f), b = E f' - s E f

over noisy data at ``u``, with ``f' = (1 - l) y' - l' y - m'`` the derivative along the flow: ``m'`` is one
Jacobian-vector product, ``l'`` a difference of the grid. They depend on the half-log-SNR alone, so those of a network
hold on every process it is converted to; and on the data's law without guidance, as the authors measure them.

Source: Zheng, Lu, Chen & Zhu 2023, DPM-Solver-v3 (arXiv 2310.13268), section 3.1 and appendix.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsamplers import checks
from jaxsamplers.core import Model, as_key, fold_in
from jaxsamplers.laws import pytree
from jaxsamplers.processes import Process, centre, uncentre

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Key

NAMES = ("half_log_snr", "linear", "scaling", "bias")


@pytree
class Statistics:
    """``l``, ``s`` and ``b`` on a grid; see ``at`` for what lies between.

    Attributes:
        half_log_snr: the grid, increasing.
        linear: the paper's ``l``; trailing axes, if any, broadcast against one sample.
        scaling: ``s``, of the same shape.
        bias: ``b``, of the same shape.
    """

    half_log_snr: Float[Array, " k"]
    linear: Float[Array, "k ..."]
    scaling: Float[Array, "k ..."]
    bias: Float[Array, "k ..."]


def validate(statistics: Statistics) -> Statistics:
    """The same, as JAX arrays.

    Raises:
        ValueError: a grid of fewer than two levels or not increasing, arrays whose shapes do not fit together, or
            numbers that are not finite.
    """
    grid, *values = [jnp.asarray(getattr(statistics, name)) for name in NAMES]
    if grid.ndim != 1 or len(grid) < 2:
        raise ValueError(f"statistics need a half_log_snr of two levels or more, got shape {grid.shape}")
    shapes = [value.shape for value in values]
    if len({*shapes}) > 1 or shapes[0][:1] != grid.shape:
        raise ValueError(f"linear, scaling and bias must have one shape ({len(grid)}, ...), got {shapes}")
    for name, value in zip(NAMES, (grid, *values), strict=True):
        known = checks.concrete(value)
        if known is not None and not np.isfinite(known).all():
            raise ValueError(f"{name} must be finite, got {np.sum(~np.isfinite(known))} numbers that are not")
    known = checks.concrete(grid)
    if known is not None and not (np.diff(known) > 0).all():
        raise ValueError("half_log_snr must increase")
    return Statistics(grid, *values)


def at(statistics: Statistics, half_log_snr: Float[Array, " k"]) -> Statistics:
    """The statistics at any levels: cubic with a continuous derivative between those of the grid, constant beyond."""
    grid, *tables = [getattr(statistics, name) for name in NAMES]
    above = jnp.clip(jnp.searchsorted(grid, half_log_snr), 1, len(grid) - 1)
    width = grid[above] - grid[above - 1]
    part = jnp.clip((half_log_snr - grid[above - 1]) / width, 0.0, 1.0)

    def cubic(values: Array) -> Array:
        """Hermite's, from values and slopes at both ends."""
        column = lambda a: a.reshape(-1, *[1] * (values.ndim - 1))
        p, w, slopes = column(part), column(width), _differences(grid, values)
        low, high = values[above - 1], values[above]
        bend = (1 - p) * (w * slopes[above - 1] - (high - low)) - p * (w * slopes[above] - (high - low))
        return low + p * (high - low) + p * (1 - p) * bend

    return Statistics(half_log_snr, *[cubic(values) for values in tables])


def empirical_statistics(
    model: Model,
    process: Process,
    data: Float[Array, "samples ..."],
    key: Key[Array, ""],
    *,
    half_log_snr: Float[Array, " k"] | None = None,
    probes: int | None = None,
    batch_size: int = 64,
) -> Statistics:
    """The statistics of a network on samples of its data; ``k * samples * (2 + probes)`` network calls.

    The same noise is used at every level, so that the statistics are smooth in it.

    Args:
        model: the denoiser, without guidance.
        process: the noise process it was trained on.
        data: clean samples, or draws of a sampler; the authors take 1024 to 4096.
        key: PRNG key of the noise and the probes.
        half_log_snr: the grid, increasing; by default 121 equal levels from the process's ``t_max`` to
            ``t_min``.
        probes: Rademacher probes for the Jacobian's diagonal; ``None`` for the exact one, a product for each dimension.
        batch_size: how many samples are in memory at a time.

    Raises:
        ValueError: fewer than two samples, fewer than one probe, or a grid that is infinite (give
            ``half_log_snr`` where ``t_max`` is pure noise) or does not increase.
    """
    data = jnp.asarray(data)
    if len(data) < 2:
        raise ValueError(f"data must hold two samples or more, got {len(data)}")
    checks.integer("batch_size", batch_size, low=1)
    if probes is not None:
        checks.integer("probes", probes, low=1)
    if half_log_snr is None:
        ends = jnp.stack([process.half_log_snr(t) for t in (process.t_max, process.t_min)])
        half_log_snr = jnp.linspace(ends[0], ends[1], 121)
    grid = jnp.asarray(half_log_snr, data.dtype)
    known = checks.concrete(grid)
    if known is not None and not np.isfinite(known).all():
        raise ValueError(f"half_log_snr must be finite, got {known[0]:g} to {known[-1]:g}: give a grid of your own")
    keys = jax.random.split(as_key(key), len(data))

    def level(u: Array) -> tuple[Array, ...]:
        def single(x0: Array, k: Array) -> tuple[Array, ...]:
            return _behaviour(model, process, u, x0, k, probes)

        slope, y, m, along = jax.lax.map(lambda of: single(*of), (data, keys), batch_size=batch_size)
        linear = 1 - jnp.mean(slope, axis=0)
        f, rest = (1 - linear) * y - m, (1 - linear) * (m - y) - along  # f' = rest - l' y
        cov = lambda a, b: jnp.mean((a - a.mean(0)) * (b - b.mean(0)), axis=0)
        known = cov(f, f) > jnp.finfo(f.dtype).eps * jnp.mean(m**2, axis=0)  # else f is one number to rounding
        return linear, f.mean(0), rest.mean(0), y.mean(0), jnp.where(known, cov(f, f), jnp.inf), cov(f, rest), cov(f, y)

    linear, f, rest, y, variance, with_rest, with_y = jax.lax.map(level, grid)
    change = _differences(grid, linear)
    scaling = (with_rest - change * with_y) / variance
    return validate(Statistics(grid, linear, scaling, rest - change * y - scaling * f))


def save_statistics(path: str | Path, statistics: Statistics) -> None:
    """Write them as one ``.npz`` file."""
    statistics = validate(statistics)
    with Path(path).open("wb") as file:
        arrays: dict[str, Any] = {name: np.asarray(getattr(statistics, name)) for name in NAMES}
        np.savez(file, **arrays)


def load_statistics(path: str | Path) -> Statistics:
    """What ``save_statistics`` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, lacks an array, or holds what ``validate`` refuses.
    """
    try:
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as stored:
            missing = [name for name in NAMES if name not in stored.files]
            if missing:
                raise ValueError(f"it lacks {', '.join(missing)}")
            return validate(Statistics(*[jnp.asarray(stored[name]) for name in NAMES]))
    except (zipfile.BadZipFile, zlib.error, EOFError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no file of statistics, or damaged: {error}") from error


def _behaviour(
    model: Model, process: Process, u: Array, x0: Array, key: Array, probes: int | None
) -> tuple[Array, Array, Array, Array]:
    """At one noisy sample: ``diag dm/dy``, ``y``, ``m``, and ``m'`` along the flow."""
    t = process.time(u)
    x = process.forward(fold_in(key, 0), x0[None], t)[0]
    alpha = process.alpha(t).astype(x.dtype)

    def estimate(y: Array, u: Array) -> Array:
        """``m`` as a function of ``y``; the noise level moves with ``u``, the origin's part of ``x`` too."""
        t = process.time(u)
        noisy = process.alpha(t).astype(y.dtype) * y[None]
        return centre(model(uncentre(noisy, process.origin), t), process.origin)[0].astype(x.dtype)

    y = centre(x[None], process.origin)[0] / alpha
    m = estimate(y, u)
    along = jax.jvp(estimate, (y, u), (m - y, jnp.ones_like(u)))[1]
    product = jax.linearize(lambda y: estimate(y, u), y)[1]
    if probes is None:
        basis = jnp.eye(y.size, dtype=y.dtype).reshape(y.size, *y.shape)
        slope = jnp.sum(jax.lax.map(lambda v: v * product(v), basis), axis=0)
    else:
        draws = jax.random.rademacher(fold_in(key, 1), (probes, *y.shape), y.dtype)
        slope = jnp.mean(jax.lax.map(lambda v: v * product(v), draws), axis=0)
    return slope, y, m, along


def _differences(x: Array, y: Array) -> Array:
    """The derivative of a parabola through three neighbours, on an uneven grid."""
    h = jnp.diff(x).reshape(-1, *[1] * (y.ndim - 1))
    slope = jnp.diff(y, axis=0) / h
    if len(x) == 2:
        return jnp.concatenate([slope, slope])
    inside = (h[1:] * slope[:-1] + h[:-1] * slope[1:]) / (h[1:] + h[:-1])
    return jnp.concatenate([2 * slope[:1] - inside[:1], inside, 2 * slope[-1:] - inside[-1:]])
