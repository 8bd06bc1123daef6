"""DPM-Solver-12 and -23: adaptive steps on the device, by the difference of two orders of one singlestep solver.

A step of ``h`` in half-log-SNR is taken by DPM-Solver of order ``k`` and, from the same network calls, of order
``k - 1``. With ``d`` their difference and tolerances as in every code of this kind,

    error = sqrt(mean (d / max(atol, rtol max(|lower|, |lower before|)))^2)

the step stands if the error is not much above 1, and ``h`` is multiplied by a power of the error. Order 2 compares DDIM
with DPM-Solver-2; order 3 compares DPM-Solver-2 with ``r_1 = 1/3`` and DPM-Solver-3. The whole batch takes one step.

The published rule is ``h <- 0.9 h error^{-1/k}``, where ``error <= 1`` is accepted; k-diffusion's, used here, smooths
it: ``h <- h (1 + arctan(error^{-1/k} - 1))``, accepted where that factor is at least 0.81.

Source: Lu et al. 2022, DPM-Solver (arXiv 2206.00927), appendix C; the controller of Crowson's k-diffusion
(``sample_dpm_adaptive``), with its defaults, an integral controller.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.core import Model
from jaxsamplers.processes import Process, centre, uncentre
from jaxsamplers.solvers.grid import phi
from jaxsamplers.tableau import conform

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int, PyTree


ACCEPTED = 0.81  # the least factor of a step that stands
END = 1e-5  # in half-log-SNR: so near the end is there


class Solution(NamedTuple):
    """What an adaptive run ends with."""

    x: PyTree
    calls: Int[Array, ""]  # of the network
    accepted: Int[Array, ""]  # steps
    rejected: Int[Array, ""]
    finished: Bool[Array, ""]  # False where ``max_steps`` came first


class _State(NamedTuple):
    y: PyTree  # the sample over alpha
    lower: PyTree
    u: Float[Array, ""]
    h: Float[Array, ""]
    accepted: Int[Array, ""]
    rejected: Int[Array, ""]


def dpm_solver_adaptive(
    process: Process,
    model: Model,
    x: PyTree,
    *,
    order: int = 3,
    rtol: float = 0.05,
    atol: float = 0.0078,
    first_step: float = 0.05,
    t_start: float | None = None,
    t_end: float | None = None,
    max_steps: int = 10_000,
) -> Solution:
    """A sample of the probability flow by DPM-Solver-12 (``order=2``) or -23; ``order`` network calls a step.

    A ``lax.while_loop``: it compiles once for any tolerance, and gradients pass in forward mode only.

    Args:
        process: the noise process.
        model: the denoiser.
        x: the sample at ``t_start``, any pytree.
        order: 2 or 3.
        rtol: relative tolerance of a step; the published ones, 0.05 and 0.0078, suit images in [-1, 1].
        atol: absolute tolerance of ``x / alpha``, in the units of the data.
        first_step: in half-log-SNR.
        t_start: ``process.t_max`` by default; with signal.
        t_end: ``process.t_min`` by default; not the clean end.
        max_steps: how many steps may be tried.

    Raises:
        ValueError: an argument that is not allowed, or an end at which the half-log-SNR is infinite.
    """
    checks.integer("order", order, low=2, high=3)
    checks.integer("max_steps", max_steps, low=1)
    for name, value in (("rtol", rtol), ("atol", atol), ("first_step", first_step)):
        checks.within(name, value, 0.0, above=True)
    times = [process.t_max if t_start is None else t_start, process.t_min if t_end is None else t_end]
    start, end = [process.half_log_snr(t) for t in times]
    known = checks.concrete(jnp.stack([start, end]))
    if known is not None and not (jnp.isfinite(known).all() and known[0] < known[1]):
        raise ValueError(f"half-log-SNR must grow between finite ends, got {known[0]:g} to {known[1]:g}")

    def noise(y: PyTree, u: Array) -> PyTree:
        t = process.time(u)
        noisy = uncentre(_mix((process.alpha(t), y)), process.origin)
        m = centre(conform(model(noisy, t), noisy), process.origin)
        return _mix((jnp.exp(u), y), (-jnp.exp(u), m))

    def both_orders(y: PyTree, u: Array, h: Array) -> tuple[PyTree, PyTree]:
        """The step of order ``order - 1`` and that of ``order``."""
        first = noise(y, u)
        rho = lambda part: jnp.exp(-u - part * h)

        def constant(part: float) -> tuple[Array, PyTree]:
            return -rho(part) * jnp.expm1(part * h), first

        def slope(part: float, weight: Array, later: PyTree) -> list[tuple[Array, PyTree]]:
            return [(-rho(part) * weight, later), (rho(part) * weight, first)]

        one = jnp.ones_like(h)
        if order == 2:
            lower = _mix((one, y), constant(1.0))
            half = noise(_mix((one, y), constant(1 / 2)), u + h / 2)
            return lower, _mix((one, lower), *slope(1.0, jnp.expm1(h), half))
        third = noise(_mix((one, y), constant(1 / 3)), u + h / 3)
        whole = _mix((one, y), constant(1.0))
        lower = _mix((one, whole), *slope(1.0, 1.5 * jnp.expm1(h), third))
        growing = 2 * (2 / 3 * h) * phi(2, 2 / 3 * h)
        two_thirds = noise(_mix((one, y), constant(2 / 3), *slope(2 / 3, growing, third)), u + 2 / 3 * h)
        return lower, _mix((one, whole), *slope(1.0, 1.5 * h * phi(2, h), two_thirds))

    def again(state: _State) -> Array:
        return (state.u < end - END) & (state.accepted + state.rejected < max_steps)

    def step(state: _State) -> _State:
        u = jnp.minimum(end, state.u + state.h)
        lower, higher = both_orders(state.y, state.u, u - state.u)
        error = _error(lower, higher, state.lower, rtol, atol)
        factor = 1 + jnp.arctan((error + 1e-8) ** (-1 / order) - 1)
        stands = factor >= ACCEPTED
        choose = lambda new, old: jax.tree.map(lambda a, b: jnp.where(stands, a, b), new, old)
        y, lower, u = choose((higher, lower, u), (state.y, state.lower, state.u))
        return _State(y, lower, u, state.h * factor, state.accepted + stands, state.rejected + ~stands)

    y = _mix((1 / process.alpha(times[0]), centre(x, process.origin)))
    count = jnp.zeros((), jnp.int32)
    h = jnp.asarray(first_step, start.dtype)
    state = jax.lax.while_loop(again, step, _State(y, y, start, h, count, count))
    out = uncentre(_mix((process.alpha(times[1]), state.y)), process.origin)
    calls = order * (state.accepted + state.rejected)
    return Solution(out, calls, state.accepted, state.rejected, state.u >= end - END)


def _error(lower: PyTree, higher: PyTree, before: PyTree, rtol: float, atol: float) -> Array:
    """The root mean square, over all numbers of all samples, of the difference in units of the tolerance."""

    def squares(a: Array, b: Array, c: Array) -> Array:
        return jnp.sum(((a - b) / jnp.maximum(atol, rtol * jnp.maximum(jnp.abs(a), jnp.abs(c)))) ** 2)

    total = jax.tree.leaves(jax.tree.map(squares, lower, higher, before))
    return jnp.sqrt(sum(total, start=jnp.zeros(())) / sum(leaf.size for leaf in jax.tree.leaves(lower)))


def _mix(*terms: tuple[Array, PyTree]) -> PyTree:
    """``sum_k factor_k tree_k``, in the trees' precision."""
    factors, trees = zip(*terms, strict=True)

    def leaf(*values: Array) -> Array:
        return functools.reduce(jnp.add, [f.astype(v.dtype) * v for f, v in zip(factors, values, strict=True)])

    return jax.tree.map(leaf, *trees)
