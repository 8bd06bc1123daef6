"""Adaptive step sizes through diffrax: exact solutions of the probability flow, adaptive SDEs, likelihoods.

The flow is integrated in the angle ``theta = arctan(sigma / alpha)``, in which it is bounded for every process and
every range of times. With ``r^2 = alpha^2 + sigma^2`` and ``y = x / r = cos(theta) x0 + sin(theta) eps``,

    dy/dtheta = cos(theta) eps - sin(theta) m = (cos(theta) y - m) / sin(theta)

``dpm_solver_adaptive`` has a controller of its own (``adaptive_steps``). Diffrax is imported here only. Gradients pass
through its default adjoint, but schedules are not learned here: an adaptive method chooses its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxsamplers import checks
from jaxsamplers.adaptive_steps import Solution as Solution
from jaxsamplers.adaptive_steps import dpm_solver_adaptive as dpm_solver_adaptive
from jaxsamplers.core import Model, as_key
from jaxsamplers.processes import Process, centre, uncentre
from jaxsamplers.tableau import conform

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Key, PyTree

CLEAN_ANGLE = 1e-5  # from here to the clean end, one first-order step is exact to O(angle^2)


def solve(
    process: Process,
    model: Model,
    x: PyTree,
    *,
    t_start: float | None = None,
    t_end: float | None = None,
    rtol: float = 1e-8,
    atol: float = 1e-8,
    max_steps: int = 16384,
) -> PyTree:
    """The probability-flow solution at ``t_end`` from ``x`` at ``t_start``; use float64 for tight tolerances.

    Args:
        process: the noise process.
        model: the denoiser.
        x: the sample at ``t_start``, any pytree.
        t_start: ``process.t_max`` by default; not the clean end.
        t_end: ``process.t_min`` by default; above ``t_start`` to encode data as noise; may be the clean end.
        rtol: relative tolerance of a step.
        atol: absolute tolerance of a step.
        max_steps: more than this is an error.

    Raises:
        RuntimeError: the tolerance was not reached in ``max_steps``.
    """
    start, end = _ends(process, t_start, t_end)
    theta, last = _angle(process, start), jnp.maximum(_angle(process, end), CLEAN_ANGLE)
    y = _scale(centre(x, process.origin), 1 / _radius(process, start))
    y = _integrate(lambda angle, y: _rotation(process, model, angle, y), theta, last, y, rtol, atol, max_steps)
    m = _estimate(process, model, last, y)
    rest = last - _angle(process, end)
    y = jax.tree.map(lambda a, b: (jnp.sin(last - rest) * a + jnp.sin(rest) * b) / jnp.sin(last), y, m)
    return uncentre(_scale(y, _radius(process, end)), process.origin)


def solve_sde(
    process: Process,
    model: Model,
    x: PyTree,
    key: Key[Array, ""],
    *,
    t_start: float | None = None,
    t_end: float | None = None,
    rtol: float = 1e-2,
    atol: float = 1e-2,
    max_steps: int = 16384,
) -> PyTree:
    """A draw of the reverse-time SDE with adaptive steps (ShARK on a virtual Brownian tree).

    In half-log-SNR ``l``, with ``y = x / alpha`` and ``rho = sigma / alpha``, the noise is additive:
    ``dy = 2 (m - y) dl + sqrt(2) rho dw``.

    Args:
        process: the noise process.
        model: the denoiser.
        x: the sample at ``t_start``, any pytree.
        key: PRNG key of the Brownian path.
        t_start: ``process.t_max`` by default.
        t_end: ``process.t_min`` by default.
        rtol: relative tolerance of a step.
        atol: absolute tolerance of a step.
        max_steps: more than this is an error.

    Raises:
        ValueError: an end without signal or without noise, where the half-log-SNR is infinite.
        RuntimeError: the tolerance was not reached in ``max_steps``.

    Source: Song et al. 2021 (arXiv 2011.13456), eq. 6; the solver is of Foster et al. 2024 (arXiv 2210.13272).
    """
    import diffrax
    import lineax

    start, end = _ends(process, t_start, t_end)
    first, last = process.half_log_snr(start), process.half_log_snr(end)
    known = checks.concrete(jnp.stack([first, last]))
    if known is not None and not jnp.isfinite(known).all():
        raise ValueError(f"the reverse SDE needs signal and noise at both ends, got t_start={start:g}, t_end={end:g}")
    y = _scale(centre(x, process.origin), 1 / process.alpha(start))
    shape = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), y)

    def drift(half_log_snr: Any, y: PyTree, _: Any) -> PyTree:
        t = process.time(half_log_snr)
        noisy = uncentre(_scale(y, process.alpha(t)), process.origin)
        m = centre(conform(model(noisy, t), noisy), process.origin)
        return jax.tree.map(lambda a, b: 2 * (b - a), y, m)

    def diffusion(half_log_snr: Any, y: PyTree, _: Any) -> Any:
        return lineax.IdentityLinearOperator(shape) * (jnp.sqrt(2.0) * jnp.exp(-half_log_snr))

    area = diffrax.SpaceTimeLevyArea
    path = diffrax.VirtualBrownianTree(first, last, 1e-3 * (last - first), shape, as_key(key), levy_area=area)
    solution = diffrax.diffeqsolve(
        diffrax.MultiTerm(diffrax.ODETerm(drift), diffrax.ControlTerm(diffusion, path)),
        diffrax.ShARK(),
        first,
        last,
        None,
        y,
        stepsize_controller=diffrax.PIDController(rtol, atol, pcoeff=0.1, icoeff=0.3),
        max_steps=max_steps,
    )
    y = jax.tree.map(lambda leaf: leaf[-1], solution.ys)
    return uncentre(_scale(y, process.alpha(end)), process.origin)


def log_likelihood(
    process: Process,
    model: Model,
    x: PyTree,
    *,
    t: float | None = None,
    log_prior: Callable[[PyTree], Float[Array, " batch"]] | None = None,
    rtol: float = 1e-6,
    atol: float = 1e-6,
    max_steps: int = 16384,
) -> Float[Array, " batch"]:
    """``log p_t(x)`` in nats by the change of variables along the flow, with the exact divergence.

    The divergence costs one Jacobian-vector product per dimension; see ``log_likelihood_hutchinson`` for images.

    Args:
        process: the noise process.
        model: the denoiser.
        x: samples at time ``t``, a pytree of arrays ``[batch, ...]``.
        t: ``process.t_min`` by default; not the clean end.
        log_prior: log density of the samples at ``t_max``; that of ``process.prior`` by default.
        rtol: relative tolerance of a step.
        atol: absolute tolerance of a step.
        max_steps: more than this is an error.

    Raises:
        RuntimeError: the tolerance was not reached in ``max_steps``.

    Source: Song et al. 2021 (arXiv 2011.13456), eq. 39; Chen et al. 2018 (arXiv 1806.07366), eq. 8.
    """

    def divergence(angle: Array, y: PyTree) -> tuple[PyTree, Float[Array, " batch"]]:
        def single(row: PyTree) -> Array:
            flat, unravel = ravel_pytree(row)

            def field(v: Array) -> Array:
                one = jax.tree.map(lambda leaf: leaf[None], unravel(v))
                return ravel_pytree(_rotation(process, model, angle, one))[0]

            return jnp.trace(jax.jacfwd(field)(flat))

        return _rotation(process, model, angle, y), jax.vmap(single)(y)

    return _likelihood(process, x, t, log_prior, divergence, rtol, atol, max_steps)


def log_likelihood_hutchinson(
    process: Process,
    model: Model,
    x: PyTree,
    key: Key[Array, ""],
    *,
    probes: int = 1,
    t: float | None = None,
    log_prior: Callable[[PyTree], Float[Array, " batch"]] | None = None,
    rtol: float = 1e-6,
    atol: float = 1e-6,
    max_steps: int = 16384,
) -> Float[Array, " batch"]:
    """``log p_t(x)`` in nats, unbiased, with ``probes`` Rademacher probes of the divergence fixed along the path.

    Arguments as ``log_likelihood``, with ``key`` for the probes.

    Raises:
        ValueError: fewer than one probe.
        RuntimeError: the tolerance was not reached in ``max_steps``.

    Source: Grathwohl et al. 2019, FFJORD (arXiv 1810.01367), eq. 7 - 8; Hutchinson 1990.
    """
    checks.integer("probes", probes, low=1)
    leaves, treedef = jax.tree.flatten(x)

    def probe(k: Key[Array, ""]) -> PyTree:
        keys = jax.random.split(k, len(leaves))
        draws = [jax.random.rademacher(k, a.shape, a.dtype) for k, a in zip(keys, leaves, strict=True)]
        return jax.tree.unflatten(treedef, draws)

    directions = jax.vmap(probe)(jax.random.split(as_key(key), probes))

    def divergence(angle: Array, y: PyTree) -> tuple[PyTree, Float[Array, " batch"]]:
        velocity, product = jax.linearize(lambda y: _rotation(process, model, angle, y), y)

        def quadratic(v: PyTree) -> Array:
            products = jax.tree.map(lambda a, b: jnp.sum((a * b).reshape(a.shape[0], -1), axis=1), v, product(v))
            return jnp.sum(jnp.stack(jax.tree.leaves(products)), axis=0)

        return velocity, jnp.mean(jax.vmap(quadratic)(directions), axis=0)

    return _likelihood(process, x, t, log_prior, divergence, rtol, atol, max_steps)


def _likelihood(
    process: Process,
    x: PyTree,
    t: float | None,
    log_prior: Callable[[PyTree], Array] | None,
    divergence: Callable[[Array, PyTree], tuple[PyTree, Array]],
    rtol: float,
    atol: float,
    max_steps: int,
) -> Array:
    start, end = _ends(process, process.t_min if t is None else t, process.t_max)
    y = _scale(centre(x, process.origin), 1 / _radius(process, start))
    batch = jax.tree.leaves(x)[0].shape[0]
    dimensions = sum(leaf.size for leaf in jax.tree.leaves(x)) // batch
    change = jnp.zeros(batch, jax.tree.leaves(x)[0].dtype)
    y, change = _integrate(
        lambda angle, state: divergence(angle, state[0]),
        _angle(process, start),
        _angle(process, end),
        (y, change),
        rtol,
        atol,
        max_steps,
    )
    centred = _scale(y, _radius(process, end))
    if log_prior is None:
        sigma = process.sigma(end)
        leaves = [(leaf.reshape(batch, -1) / sigma) ** 2 for leaf in jax.tree.leaves(centred)]
        squares = sum((jnp.sum(leaf, axis=1) for leaf in leaves), start=jnp.zeros_like(change))
        prior = process.noise.log_density(squares, dimensions) - dimensions * jnp.log(sigma)
    else:
        prior = log_prior(uncentre(centred, process.origin))
    scaling = dimensions * (jnp.log(_radius(process, end)) - jnp.log(_radius(process, start)))
    return prior + change + scaling


def _integrate(
    field: Callable[[Any, PyTree], PyTree],
    start: Array,
    end: Array,
    y: PyTree,
    rtol: float,
    atol: float,
    max_steps: int,
) -> PyTree:
    import diffrax

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, args: field(t, y)),
        diffrax.Dopri8(),
        start,
        end,
        None,
        y,
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
        max_steps=max_steps,
    )
    return jax.tree.map(lambda leaf: leaf[-1], solution.ys)


def _ends(process: Process, t_start: float | None, t_end: float | None) -> tuple[Array, Array]:
    start = process.t_max if t_start is None else t_start
    end = process.t_min if t_end is None else t_end
    return jnp.asarray(start, jnp.result_type(float)), jnp.asarray(end, jnp.result_type(float))


def _angle(process: Process, t: Array) -> Array:
    return jnp.arctan2(process.sigma(t), process.alpha(t))


def _radius(process: Process, t: Array) -> Array:
    return jnp.hypot(process.alpha(t), process.sigma(t))


def _estimate(process: Process, model: Model, angle: Array, y: PyTree) -> PyTree:
    """The denoiser's answer at the noisy sample of direction ``y``, centred."""
    t = process.time(jnp.log(jnp.cos(angle)) - jnp.log(jnp.sin(angle)))
    noisy = uncentre(_scale(y, _radius(process, t)), process.origin)
    return centre(conform(model(noisy, t), noisy), process.origin)


def _rotation(process: Process, model: Model, angle: Array, y: PyTree) -> PyTree:
    m = _estimate(process, model, angle, y)
    return jax.tree.map(lambda a, b: (jnp.cos(angle) * a - b) / jnp.sin(angle), y, m)


def _scale(x: PyTree, factor: Array) -> PyTree:
    return jax.tree.map(lambda leaf: factor.astype(leaf.dtype) * leaf, x)
