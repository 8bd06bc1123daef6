"""KLUB: a bound on what a schedule costs, from single network calls: no sampling, and each step by itself.

Stochastic DDIM solves the reverse SDE exactly with the denoiser held fixed over a step. By Girsanov's theorem the two
path measures, and so the samples, are apart by at most (in nats; z = x / alpha, noise level s = sigma / alpha)

    KLUB(t_0 > ... > t_n) = sum_i int_{s_{i+1}}^{s_i} E |D(z_s, s) - D(z_{s_i}, s_i)|^2 ds / s^3

with ``z_s = x0 + s e`` and ``z_{s_i} = z_s + sqrt(s_i^2 - s^2) e'`` noised further. For a perfect denoiser the answers
are a martingale, the expectation is ``mmse(s_i) - mmse(s)``, and the KLUB is what steps add to the variational bound.

In the signal-to-noise ratio ``u = 1 / s^2`` the measure is ``du / 2``. For data ``N(0, c^2 I)`` in d dimensions

    E |D - D_i|^2 = d c^4 w    w = 1 / (s^2 + c^2) - 1 / (s_i^2 + c^2)    KLUB = d / 2 sum_i (y_i - log(1 + y_i))

where ``1 + y = (1 + c^2 u) / (1 + c^2 u_i)``, the ratio of the posterior variances at the two ends. As the product of
the ratios is fixed, the sum is least when all are equal: equal steps in ``log(1 + c^2 u)``. These numbers say where the
integrand of other data is large, so levels are drawn with density ``~ w`` (in ``u``) by inverting ``y - log(1 + y)``.

Source: Sabour, Fidler & Kreis 2024, Align your steps (arXiv 2404.14507), eq. 5 - 11, sec. 3.3, app. B.1. Their eq. 13 -
15 have ``w^2``; the proof in app. A.3, their algorithm 2 and the formula above have ``w``. Algorithm 2 prints the mean
without the normaliser of the density, which depends on the nodes and is part of the estimate. The factor 2 of eq. 8 is
not there: with ``g^2 = 2 s``, ``(2 / s)^2 / (2 g^2) = 1 / s^3``. Eq. 31 has other units on its two sides.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxsamplers import checks, schedules
from jaxsamplers.core import Model, as_key, normal_like
from jaxsamplers.denoisers import as_pytree
from jaxsamplers.laws import Normal
from jaxsamplers.processes import Process, centre, expand, uncentre

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Key, PyTree

    Nodes = Float[Array, " n+1"]

SPREAD = 0.5  # of the data, for the importance sampling only; the authors' for pixels in [-1, 1]


def klub(
    process: Process,
    model: Model,
    times: Nodes,
    x0: PyTree,
    key: Key[Array, ""],
    *,
    c: float = SPREAD,
    draws: int | None = None,
) -> Float[Array, ""]:
    """An unbiased estimate of the KLUB of a schedule, in nats, differentiable in ``times``; ``2 n draws`` calls.

    With one key it is a smooth function of the times: compare schedules of one length by the same key and data.

    Args:
        process: the noise process, of normal noise.
        model: the denoiser ``(x, t) -> x0``, called at times of shape ``[draws]``.
        times: the schedule; its first time may be pure noise, its last may not be the clean end.
        x0: samples of the data ``[samples, ...]``, an array or a pytree of them.
        key: PRNG key of the levels and the noise.
        c: the data's spread as the importance sampling assumes it, above 0: it changes the variance only.
        draws: pairs of calls a step, ``samples`` by default; data are used in turn. The authors take 8192.

    Raises:
        ValueError: ``c`` or ``draws`` not above 0, no data, noise that is not normal, a schedule that ends at the clean
            end, where the bound is infinite, or that ``schedules.validate`` refuses.
    """
    return jnp.sum(klub_intervals(process, model, times, x0, key, c=c, draws=draws))


def klub_intervals(
    process: Process,
    model: Model,
    times: Nodes,
    x0: PyTree,
    key: Key[Array, ""],
    *,
    c: float = SPREAD,
    draws: int | None = None,
) -> Float[Array, " n"]:
    """The terms of ``klub``, one a step; arguments and errors as there. A step's noise depends on its number only."""
    times, count = check(process, times, x0, c, draws)
    key, model = as_key(key), as_pytree(model)

    def step(of: tuple[Array, Array, Array]) -> Array:
        number, noisy, clean = of
        return interval(process, model, noisy, clean, x0, jax.random.fold_in(key, number), c, count)

    return jax.lax.map(jax.checkpoint(step), (jnp.arange(len(times) - 1), times[:-1], times[1:]))


def klub_gaussian(
    process: Process, times: Nodes, *, std: float | Float[Array, ""] = 1.0, dimensions: int = 1
) -> Float[Array, ""]:
    """The KLUB for data ``N(0, std^2 I)`` and their denoiser, in closed form.

    Args:
        process: the noise process.
        times: the schedule.
        std: of the data, above 0.
        dimensions: of the data.

    Raises:
        ValueError: numbers that are not above 0, a schedule that ``schedules.validate`` refuses.
    """
    checks.within("std", std, 0.0, above=True)
    checks.integer("dimensions", dimensions, low=1)
    levels = process.half_log_snr(schedules.validate(process, times))
    return dimensions / 2 * jnp.sum(_excess(_ratio(levels[:-1], levels[1:], std)))


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["process", "model", "times", "c", "key"], meta_fields=["draws"]
)
@dataclasses.dataclass(frozen=True)
class Klub:
    """The logarithm of ``klub`` as an objective for ``fit``; made by ``klub_objective``."""

    process: Process
    model: Model
    times: Callable[..., Any] | None
    c: float
    key: Key[Array, ""] | None
    draws: int | None

    def __call__(self, parameters: Any, batch: PyTree, key: Key[Array, ""]) -> Float[Array, ""]:
        """The logarithm of the KLUB of the parameters' schedule; ``batch`` holds samples of the data."""
        times = parameters.times(self.process) if self.times is None else self.times(parameters)
        fixed = key if self.key is None else self.key
        return jnp.log(klub(self.process, self.model, times, batch, fixed, c=self.c, draws=self.draws))


def klub_objective(
    process: Process,
    model: Model,
    *,
    times: Callable[..., Any] | None = None,
    c: float = SPREAD,
    draws: int | None = None,
    key: Key[Array, ""] | None = None,
) -> Klub:
    """The logarithm of the KLUB as ``(parameters, batch, key) -> scalar``, to be minimised by gradient descent.

    The logarithm, because a bad schedule's KLUB and its slope are a hundred times those of a good one, which optimisers
    that remember sizes do not get over. The authors found gradients unstable; with stratified levels they are not.

    Args:
        process: the noise process.
        model: the denoiser.
        times: ``parameters -> times``; by default ``parameters.times(process)``.
        c: as for ``klub``.
        draws: as for ``klub``.
        key: common random numbers for all steps of the optimiser; fresh ones by default.

    Raises:
        ValueError: as ``klub``, when called.
    """
    checks.within("c", c, 0.0, above=True)
    known = None if times is None else as_pytree(times)
    return Klub(process, as_pytree(model), known, c, None if key is None else as_key(key), draws)


def check(process: Process, times: Nodes, x0: PyTree, c: float, draws: int | None) -> tuple[Nodes, int]:
    """``times`` as an array and the number of draws, after every check of the arguments of ``klub``."""
    checks.within("c", c, 0.0, above=True)
    sizes = {len(leaf) if jnp.ndim(leaf) else 0 for leaf in jax.tree.leaves(x0)}
    if len(sizes) != 1 or not min(sizes):
        raise ValueError(f"x0 must hold samples [samples, ...], one or more, got arrays of {sorted(sizes)} samples")
    if not isinstance(process.noise, Normal):
        raise ValueError(f"the KLUB is a bound for normal noise, this process has {type(process.noise).__name__}")
    times = schedules.validate(process, times)
    known = checks.concrete(process.half_log_snr(times[-1]))
    if known is not None and known == jnp.inf:
        raise ValueError(
            "the KLUB of a step to the clean end is infinite: end the schedule before it, and append the end afterwards"
        )
    return times, min(sizes) if draws is None else checks.integer("draws", draws, low=1)


def interval(
    process: Process,
    model: Model,
    noisy: Float[Array, ""],
    clean: Float[Array, ""],
    x0: PyTree,
    key: Key[Array, ""],
    c: float,
    draws: int,
) -> Float[Array, ""]:
    """The KLUB of one step, from the time ``noisy`` to the time ``clean``, unchecked."""
    order, place, near, far = jax.random.split(key, 4)
    start = process.half_log_snr(noisy)
    snr, scale = jnp.exp(2 * start), 1 + c**2 * jnp.exp(2 * start)
    whole = _excess(_ratio(start, process.half_log_snr(clean), c))
    strata = jax.random.permutation(order, draws) + 1 - jax.random.uniform(place, (draws,), start.dtype)
    y = _level(whole * strata / draws)
    inside = snr + y * scale / c**2
    t = process.time(0.5 * jnp.log(inside))

    data = jax.tree.map(lambda leaf: jnp.asarray(leaf)[jnp.arange(draws) % len(leaf)], x0)
    alpha, sigma, alpha_noisy = process.alpha(t), process.sigma(t), process.alpha(noisy)
    rest = process.sigma(noisy) * jnp.sqrt(y * scale / (c**2 * inside))
    x = _mix(alpha, centre(data, process.origin), sigma, normal_like(near, data))
    further = _mix(alpha_noisy / alpha, x, rest, normal_like(far, data))

    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[uncentre(z, process.origin) for z in (x, further)])
    answers = jax.lax.map(lambda of: model(*of), (both, jnp.stack([t, jnp.broadcast_to(noisy, t.shape)])))
    squares = jax.tree.map(lambda m: jnp.sum((m[0] - m[1]).astype(t.dtype).reshape(draws, -1) ** 2, axis=1), answers)
    return whole * scale / (2 * c**2) * jnp.mean(sum(jax.tree.leaves(squares)) * (1 + y) / y)


def _mix(a: Array, x: PyTree, b: Array, noise: PyTree) -> PyTree:
    return jax.tree.map(lambda x, z: (expand(a, x) * x + expand(b, z) * z).astype(x.dtype), x, noise)


def _ratio(noisy: Array, clean: Array, c: float | Array) -> Array:
    """``y``, from the half-log-SNR at both ends of a step."""
    return c**2 * (jnp.exp(2 * clean) - jnp.exp(2 * noisy)) / (1 + c**2 * jnp.exp(2 * noisy))


def _excess(y: Array) -> Array:
    """``y - log(1 + y)``; below 1/2 through ``log(1 + y) = 2 artanh z`` with ``z = y / (2 + y)``, ``y - 2 z = y z``."""
    z = y / (2 + y)
    series = jnp.polyval(jnp.array([1 / k for k in range(25, 1, -2)], y.dtype), z * z)
    return jnp.where(y < 0.5, y * z - 2 * z**3 * series, y - jnp.log1p(y))


@jax.custom_jvp
def _level(excess: Array) -> Array:
    """The ``y`` of this ``y - log(1 + y)``: Newton's method, from above on a convex function.

    It starts at a bound on Lambert's W, Chatzigeorgiou 2013 (arXiv 1601.04895).
    """
    step = lambda _, y: y - (_excess(y) - excess) * (1 + y) / y
    return jax.lax.fori_loop(0, 5, step, excess + jnp.sqrt(2 * excess))


@_level.defjvp
def _level_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    y = _level(*primals)
    return y, tangents[0] * (1 + y) / y
