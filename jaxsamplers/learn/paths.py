"""A teacher's path between its nodes: for schedules that are learned, whose times are no nodes of any teacher.

A teacher of many steps is run once. Between its nodes the path is the cubic through the two ends with the flow's own
slopes there (Hermite's), in the coordinate the schedule is learned in: exact to fourth order in the teacher's steps,
and its derivative with respect to the time is the velocity, so that gradients see how a goal moves with its time. A
last step to the clean end is straight, as the teacher's is.

The noises are the leading axis of what is kept, so that ``batches`` of it are batches of noises.

Source: Shaul et al. 2024, Bespoke solvers (arXiv 2310.19075), eq. 25, who solve again in every step and take the
velocity for the derivative by hand.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.core import Model
from jaxsamplers.denoisers import as_pytree
from jaxsamplers.learn.dynamic import teacher_path
from jaxsamplers.learn.parameters import coordinates
from jaxsamplers.processes import Process, centre, uncentre
from jaxsamplers.schedules import validate
from jaxsamplers.solvers.unipc import unipc

if TYPE_CHECKING:
    from jaxtyping import Array, Float, PyTree

    Times = Float[Array, " m+1"]

TEACHER = functools.partial(unipc, order=3)


class Path(NamedTuple):
    """Where a teacher goes.

    Attributes:
        x: at each of its nodes, about the process's origin, ``[batch, m + 1, ...]``; the noise first.
        slope: the flow's, in the coordinate.
    """

    x: PyTree
    slope: PyTree


def paths(
    process: Process,
    model: Model,
    x: PyTree,
    times: Times,
    *,
    coordinate: str = "half_log_snr",
    solver: Callable[..., Any] = TEACHER,
) -> Path:
    """The teacher's path from each noise; two network calls a node.

    Args:
        process: the noise process.
        model: the denoiser.
        x: noises at the first time, ``[batch, ...]``.
        times: the teacher's nodes, many; from the student's first time to its last.
        coordinate: "half_log_snr", "time" or "angle": what slopes are taken in; finite at both ends.
        solver: the teacher, deterministic and of one network call a step.

    Raises:
        ValueError: an unknown coordinate or one that is infinite at an end, or a teacher that does not fit.
    """
    checks.one_of("coordinate", coordinate, coordinates)
    times = validate(process, times)
    if not bool(jnp.isfinite(coordinates[coordinate](process)[0](times)).all()):
        raise ValueError(f"the {coordinate} of the teacher's times is infinite at an end: use another coordinate")
    return _paths(process, as_pytree(model), x, times, coordinate, solver)


def along(process: Process, times: Times, path: Path, at: Float[Array, " n"], coordinate: str) -> PyTree:
    """The path at other times, ``[n, batch, ...]`` about the origin; arguments as ``paths``."""
    to = coordinates[coordinate](process)[0]
    nodes, here = to(times), to(at)
    left = jnp.clip(jnp.searchsorted(-times, -at, side="right") - 1, 0, len(times) - 2)
    gap = nodes[left + 1] - nodes[left]
    u = (here - nodes[left]) / gap

    def cubic(x: Array, slope: Array) -> Array:
        first, last = jnp.moveaxis(x, 1, 0)[left], jnp.moveaxis(x, 1, 0)[left + 1]
        out, into = jnp.moveaxis(slope, 1, 0)[left], jnp.moveaxis(slope, 1, 0)[left + 1]
        spread = lambda weight: weight.astype(x.dtype).reshape((-1,) + (1,) * (x.ndim - 1))
        s = spread(u)
        rise = s**2 * (3 - 2 * s)
        bends = s * (1 - s) ** 2 * out - s**2 * (1 - s) * into
        return first + rise * (last - first) + spread(gap) * bends

    return jax.tree.map(cubic, path.x, path.slope)


@functools.partial(jax.jit, static_argnames=("coordinate", "solver"))
def _paths(
    process: Process, model: Model, x: PyTree, times: Times, coordinate: str, solver: Callable[..., Any]
) -> Path:
    path = teacher_path(process, model, x, times, solver)
    alpha, sigma = process.alpha(times), process.sigma(times)
    alpha_dot, sigma_dot = process.velocity_coefficients(times)
    speed = jax.jvp(coordinates[coordinate](process)[0], (times,), (jnp.ones_like(times),))[1]

    def answer(node: tuple[PyTree, Array]) -> PyTree:
        x, t = node
        return centre(model(uncentre(x, process.origin), t), process.origin)

    answers = jax.lax.map(answer, (path, times))
    clean = sigma == 0  # no noise is left to be seen there: it is what it was at the node before

    def slope(x: Array, m: Array) -> Array:
        spread = lambda weight: weight.astype(x.dtype).reshape((-1,) + (1,) * (x.ndim - 1))
        eps = (x - spread(alpha) * m) / spread(jnp.where(clean, 1.0, sigma))
        eps = jnp.where(spread(clean) > 0, jnp.roll(eps, 1, axis=0), eps)
        return (spread(alpha_dot) * m + spread(sigma_dot) * eps) / spread(speed)

    batch_first = lambda tree: jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), tree)
    return Path(batch_first(path), batch_first(jax.tree.map(slope, path, answers)))
