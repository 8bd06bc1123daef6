"""Stochastic interpolants: from one law to another by an ODE or an SDE with the same marginals.

Between data ``x0`` at ``t = 0`` and other data ``x1`` at ``t = 1``, coupled in any way, with ``z ~ N(0, I)`` apart,

    x_t = a(t) x0 + b(t) x1 + gamma(t) z            a: 1 -> 0,  b: 0 -> 1,  gamma(0) = gamma(1) = 0

has two conditional means that networks learn by regression, the velocity and the denoiser (``draw`` makes targets):

    v(x, t) = E[a' x0 + b' x1 + gamma' z | x_t = x]     e(x, t) = E[z | x_t = x]     score = -e / gamma

and for every ``epsilon(t) >= 0`` the solutions of

    dX = (v - epsilon e / gamma) dt + sqrt(2 epsilon) dW        from 0 to 1
    dX = (v + epsilon e / gamma) dt + sqrt(2 epsilon) dW        from 1 to 0, in reversed time

have the law of ``x_t`` at every ``t``: ``epsilon = 0`` is the flow. An interpolant here is any function
``t -> (a, b, gamma)``; a model answers ``(v, e)``, and ``drift`` makes of it what the tables below call. When one end
is normal the interpolant is a process (``processes.rectified_flow``, ``trigonometric``): all solvers run on that.

Source: Albergo, Boffi & Vanden-Eijnden 2023, Stochastic interpolants (arXiv 2303.08797), sec. 2 - 4. The authors' code
    has a Heun's method with the noise put before the step and both slopes at its end; the one here is of weak order 2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxsamplers import checks
from jaxsamplers.core import as_key, normal_like
from jaxsamplers.denoisers import as_pytree
from jaxsamplers.laws import where_positive
from jaxsamplers.processes import expand
from jaxsamplers.tableau import Tableau, interleave, table

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Key, PyTree

    Times = Float[Array, "..."]
    Interpolant = Callable[[Times], tuple[Times, Times, Times]]


def linear(noise: float = 2.0) -> Interpolant:
    """``a = 1 - t``, ``b = t``, ``gamma = sqrt(noise t (1 - t))``."""
    checks.within("noise", noise, 0.0)
    return Partial(_linear, noise)


def trigonometric(noise: float = 1.0) -> Interpolant:
    """``a = r cos(pi t / 2)``, ``b = r sin(pi t / 2)`` with ``r^2 = 1 - gamma^2``, ``gamma = sqrt(noise t (1 - t))``.

    Data of variance 1 at both ends keep it in between. The paper's table has ``r = 1``; this is the authors' code.
    """
    checks.within("noise", noise, 0.0, 4.0)
    return Partial(_trigonometric, noise)


def encoding_decoding() -> Interpolant:
    """``a``, then ``b``, is ``cos(pi t)^2``, and ``gamma = sin(pi t)^2``: pure noise at ``t = 1/2``."""
    return Partial(_encoding_decoding)


def draw(
    interpolant: Interpolant, key: Key[Array, ...], x0: PyTree, x1: PyTree, t: Times
) -> tuple[PyTree, PyTree, PyTree]:
    """``x_t`` and what the networks regress on: ``(x_t, a' x0 + b' x1 + gamma' z, z)``.

    Args:
        interpolant: ``t -> (a, b, gamma)``.
        key: PRNG key, or one per sample.
        x0: data at ``t = 0``, ``[batch, ...]``; pairs with ``x1`` may be coupled.
        x1: data at ``t = 1``.
        t: a scalar or ``[batch]``, inside (0, 1): at the ends ``gamma'`` may be infinite.
    """
    t = jnp.asarray(t, jnp.result_type(float))
    levels, slopes = jax.jvp(interpolant, (t,), (jnp.ones_like(t),))
    z = normal_like(as_key(key), x0)

    def mix(weights: tuple[Times, Times, Times]) -> PyTree:
        def leaf(*parts: Array) -> Array:
            return sum(expand(w, part).astype(part.dtype) * part for w, part in zip(weights, parts, strict=True))  # type: ignore[return-value]

        return jax.tree.map(leaf, x0, x1, z)

    return mix(levels), mix(slopes), z


def drift(model: Callable[..., Any], interpolant: Interpolant) -> Callable[..., Any]:
    """``(x, t, diffusion) -> v - diffusion e / gamma``, for the tables of ``euler`` and ``heun``; a pytree.

    Args:
        model: ``(x, t, **extra) -> (v, e)``, the velocity and the denoiser, each shaped like ``x``.
        interpolant: what it was trained on.
    """
    return Partial(_drift, as_pytree(model), interpolant)


def euler(
    interpolant: Interpolant, times: Float[Array, " n+1"], *, diffusion: float | Float[Array, " n+1"] = 0.0
) -> Tableau:
    """Euler's method, with noise Euler and Maruyama's; first order, one model call a step.

    Args:
        interpolant: ``t -> (a, b, gamma)``.
        times: ``n + 1`` increasing times in [0, 1] from ``x0`` to ``x1``, or decreasing ones for the way back.
        diffusion: ``epsilon``, a number or one per time, 0 where ``gamma`` is: ``0.5 * interpolant(times)[2]``, say.

    Raises:
        ValueError: times that are not strictly monotone in [0, 1], a diffusion that is negative, or not 0 at an end.
    """
    times, signed, noise = _diffusion(interpolant, times, diffusion, every=False)
    return euler_table(times, {"diffusion": signed}, noise)


def heun(
    interpolant: Interpolant, times: Float[Array, " n+1"], *, diffusion: float | Float[Array, " n+1"] = 0.0
) -> Tableau:
    """Heun's method, both slopes with the same noise; second order (weakly, with noise), two model calls a step.

    Arguments and errors as ``euler``.
    """
    times, signed, noise = _diffusion(interpolant, times, diffusion, every=True)
    return heun_table(times, {"diffusion": signed[:-1]}, {"diffusion": signed[1:]}, noise)


def _linear(noise: float, t: Times) -> tuple[Times, Times, Times]:
    return 1 - t, t, where_positive(jnp.sqrt, noise * t * (1 - t), 0.0)


def _trigonometric(noise: float, t: Times) -> tuple[Times, Times, Times]:
    square = noise * t * (1 - t)
    radius = where_positive(jnp.sqrt, 1 - square, 0.0)
    sine, cosine = jnp.sin(jnp.pi / 2 * t), jnp.sin(jnp.pi / 2 * (1 - t))
    return radius * cosine, radius * sine, where_positive(jnp.sqrt, square, 0.0)


def _encoding_decoding(t: Times) -> tuple[Times, Times, Times]:
    level = jnp.cos(jnp.pi * t) ** 2
    early = t < 0.5
    gamma = jnp.sin(jnp.pi * jnp.minimum(t, 1 - t)) ** 2  # exactly 0 at both ends
    return jnp.where(early, level, 0.0), jnp.where(early, 0.0, level), gamma


def _drift(
    model: Callable[..., Any], interpolant: Interpolant, x: PyTree, t: Array, *, diffusion: Array, **extra: Any
) -> PyTree:
    velocity, noise = model(x, t, **extra)
    gamma = interpolant(t)[2]
    pull = where_positive(lambda g: 1 / g, gamma, 0.0) * diffusion
    return jax.tree.map(lambda v, e: v - expand(pull, e).astype(e.dtype) * e, velocity, noise)


def _diffusion(
    interpolant: Interpolant, times: Array, diffusion: Any, every: bool
) -> tuple[Array, Array, Array | None]:
    """The times, ``epsilon`` with the sign of the direction, and the noise of every step."""
    times = jnp.asarray(times, jnp.result_type(float))
    if times.ndim != 1 or times.shape[0] < 2:
        raise ValueError(f"times must be a vector of steps + 1 >= 2 times, got shape {times.shape}")
    known = checks.concrete(times)
    if known is not None:
        gaps = known[1:] - known[:-1]
        if not ((gaps > 0).all() or (gaps < 0).all()):
            raise ValueError(f"times must be strictly increasing or strictly decreasing, got {known}")
        checks.within("times", known, 0.0, 1.0)
    epsilon, noise = step_noise(times, diffusion, interpolant(times)[2], "gamma", every)
    return times, jnp.sign(times[-1] - times[0]) * epsilon, noise


def step_noise(times: Array, diffusion: Any, level: Array, name: str, every: bool) -> tuple[Array, Array | None]:
    """``epsilon`` per time, and what each step draws; ``every`` says that the last time's is used too."""
    checks.within("diffusion", diffusion, 0.0)
    if jnp.shape(diffusion) not in ((), times.shape):
        raise ValueError(f"diffusion must be a number or one per time, {times.shape}, got shape {jnp.shape(diffusion)}")
    epsilon = jnp.broadcast_to(jnp.asarray(diffusion, times.dtype), times.shape)
    known, gone = checks.concrete(epsilon), checks.concrete(level)
    if known is not None and gone is not None:
        bad = (known > 0) & (gone <= 0)
        if bad[: None if every else -1].any():
            raise ValueError(f"diffusion must be 0 where {name} is, got {known} for {name} = {gone}")
    mean = (epsilon[:-1] + epsilon[1:]) / 2 if every else epsilon[:-1]
    variance = 2 * mean * jnp.abs(times[1:] - times[:-1])
    return epsilon, None if checks.is_zero(diffusion) else where_positive(jnp.sqrt, variance, 0.0)


def euler_table(times: Array, extra: Mapping[str, Array], noise: Array | None) -> Tableau:
    """``x' = x + step drift + noise z``, where the drift's inputs are one per time or step."""
    step = times[1:] - times[:-1]
    extra = {name: values[: len(step)] for name, values in extra.items()}
    return table(None, times[:-1], [[1, step]], None if noise is None else [noise], extra)


def heun_table(times: Array, first: Mapping[str, Array], last: Mapping[str, Array], noise: Array | None) -> Tableau:
    """The same with the mean of two slopes; ``first`` and ``last`` are the drift's inputs at both ends of a step."""
    step = times[1:] - times[:-1]
    # x + step (slope + slope') / 2 + noise = (x + ahead + noise) / 2 + step slope' / 2, ahead with its noise
    draws = None if noise is None else [noise, noise]
    predictor = table(None, times[:-1], [[1, 0, step], [1, 0, 0]], draws, first)
    half = jnp.full_like(step, 0.5)
    corrector = table(None, times[1:], [[half, half, step / 2], [1, 0, 0]], extra=last)
    return interleave(predictor, corrector)
