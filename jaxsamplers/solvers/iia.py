"""Improved integration approximation: solvers whose weights are fitted, in closed form, to a finer solution.

From the sampler's own state at the start of a step, the original solver is run over ``substeps`` parts of the step.
What it finds differently is regressed, over a batch, on directions the step has at hand and that cost no network call,

    IIA-DDIM     m - m_1,  e - e_1                        estimate and noise against those of the step before
    BIIA-EDM     (e + e') / 2                             Heun's slope, in this step and in those remembered
    IIA-EDM      e,  m - m'                               the two parts of that slope, in the same steps

by the normal equations of each step in turn, and the sampler moves on with what was fitted. The result is a table like
any other: made once for a model, a schedule and a number of steps, and then as cheap as the original.

``EDM`` stands for Heun's method in ``x / alpha`` as a function of ``sigma / alpha``, for any process.

Source: Zhang, Niwa & Kleijn 2024, On accelerating diffusion-based sampling processes via improved integration
approximation (arXiv 2304.11328), sections 3 - 4. What is fitted here are corrections to the original weights, so that a
fit that is not unique, or has nothing to improve, changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.processes import centre, uncentre
from jaxsamplers.solvers.grid import Steps, steps
from jaxsamplers.tableau import Entry, Tableau, concatenate, conform, interleave, table

if TYPE_CHECKING:
    from jaxtyping import Array, Float, PyTree

    from jaxsamplers.core import Model
    from jaxsamplers.processes import Process

    Estimate = Callable[[PyTree, Array], PyTree]

RIDGE = 1e-6  # added to directions of unit size: at high noise those of two steps are all but parallel


def iia_ddim(process: Process, times: Float[Array, " n+1"], model: Model, x: PyTree, *, substeps: int = 8) -> Tableau:
    """IIA-DDIM, fitted; one network call a step, and ``n * substeps`` of a batch to fit.

    Args:
        process: the noise process; its signal must not vanish at the first time.
        times: ``n + 1`` decreasing times. The first step is DDIM's.
        model: the denoiser ``(x, t) -> x0``.
        x: a batch of noises at ``times[0]`` to fit on.
        substeps: parts of a step in the finer solution, at least 2.

    Raises:
        ValueError: too few ``substeps``, or a schedule that is not allowed.
    """
    g, fine, estimate = _prepare("iia_ddim", process, times, model, substeps)

    def step(carry: tuple[PyTree, PyTree, PyTree, Array], row: tuple[Steps, Steps]):  # type: ignore[no-untyped-def]
        x, m_1, e_1, later = carry
        g, fine = row
        m = estimate(x, g.t)
        e = _sum((1 / g.sigma, x), (-g.alpha / g.sigma, m))
        plain = _ddim(g, x, m)
        target, _ = jax.lax.scan(lambda x, g: (_ddim(g, x, estimate(x, g.t)), None), x, fine)
        ways = [_sum((later, m), (-later, m_1)), _sum((later, e), (-later, e_1))]
        phi = _fit(_sum((1.0, target), (-1.0, plain)), ways)
        x = _sum((1.0, plain), (phi[0], ways[0]), (phi[1], ways[1]))
        return (x, m, e, jnp.ones_like(later)), phi

    x = centre(x, process.origin)
    nothing = jax.tree.map(jnp.zeros_like, x)
    _, phi = jax.lax.scan(step, (x, nothing, nothing, jnp.zeros_like(g.t[0])), (g, fine))
    in_m, in_e = phi[:, 0].astype(g.t.dtype), phi[:, 1].astype(g.t.dtype)
    seen, answer = 1 / g.sigma, -g.alpha / g.sigma
    # registers: the sample, the last estimate, the last noise
    first = [g.keep + in_e * seen, -in_m, -in_e, g.gain + in_m + in_e * answer]
    return table(process, g.t, [first, [0, 0, 0, 1], [seen, 0, 0, answer]])


def biia_heun(
    process: Process,
    times: Float[Array, " n+1"],
    model: Model,
    x: PyTree,
    *,
    remember: int = 1,
    substeps: int = 4,
) -> Tableau:
    """BIIA-EDM, fitted: one weight for each of Heun's slopes. Calls, arguments and errors as ``iia_heun``."""

    def ways(g: Steps, e: PyTree, change: PyTree) -> list[PyTree]:
        return [_sum((1.0, e), (g.alpha_next / g.sigma_next / 2, change))]

    return _heun("biia_heun", process, times, model, x, remember, substeps, ways)


def iia_heun(
    process: Process,
    times: Float[Array, " n+1"],
    model: Model,
    x: PyTree,
    *,
    remember: int = 1,
    substeps: int = 4,
) -> Tableau:
    """IIA-EDM, fitted; two network calls a step and one in the last, and ``2 n (substeps + 1)`` of a batch to fit.

    Args:
        process: the noise process; its signal must not vanish at the first time.
        times: ``n + 1`` decreasing times. The last step is Euler's, as in EDM.
        model: the denoiser ``(x, t) -> x0``.
        x: a batch of noises at ``times[0]`` to fit on.
        remember: how many earlier steps lend their slopes, from 0.
        substeps: parts of a step in the finer solution, at least 2.

    Raises:
        ValueError: a negative ``remember``, too few ``substeps``, or a schedule that is not allowed.
    """

    def ways(g: Steps, e: PyTree, change: PyTree) -> list[PyTree]:
        return [e, change]

    return _heun("iia_heun", process, times, model, x, remember, substeps, ways)


def _heun(
    name: str,
    process: Process,
    times: Float[Array, " n+1"],
    model: Model,
    x: PyTree,
    remember: int,
    substeps: int,
    ways: Callable[[Steps, PyTree, PyTree], list[PyTree]],
) -> Tableau:
    """``ways(g, e, m - m')`` are the directions of one step; a linear map, of arrays as of weights."""
    checks.integer("remember", remember, low=0)
    g, fine, estimate = _prepare(name, process, times, model, substeps)
    last = jax.tree.map(lambda level: level[-1:], g)
    g, fine = jax.tree.map(lambda level: level[:-1], (g, fine))

    def slopes(g: Steps, x: PyTree) -> tuple[PyTree, PyTree]:
        """The noise ``e`` and the change ``m - m'`` of the estimate over a step."""
        m = estimate(x, g.t)
        ahead = estimate(_ddim(g, x, m), g.t_next)
        return _sum((1 / g.sigma, x), (-g.alpha / g.sigma, m)), _sum((1.0, m), (-1.0, ahead))

    def move(g: Steps, x: PyTree, e: PyTree, change: PyTree) -> PyTree:
        """Heun's step: ``e' = e + alpha' / sigma' (m - m')``."""
        gain = g.sigma_next - g.sigma * g.alpha_next / g.alpha
        return _sum((g.alpha_next / g.alpha, x), (gain, e), (gain * g.alpha_next / g.sigma_next / 2, change))

    def step(carry: tuple[PyTree, list[PyTree]], row: tuple[Steps, Steps]):  # type: ignore[no-untyped-def]
        x, past = carry
        g, fine = row
        e, change = slopes(g, x)
        plain = move(g, x, e, change)
        target, _ = jax.lax.scan(lambda x, g: (move(g, x, *slopes(g, x)), None), x, fine)
        known = [*ways(g, e, change), *past]
        phi = _fit(_sum((1.0, target), (-1.0, plain)), known)
        x = _sum((1.0, plain), *zip(phi, known, strict=True))
        return (x, known[: len(past)]), phi

    x = centre(x, process.origin)
    nothing = jax.tree.map(jnp.zeros_like, x)
    width = len(ways(g, g.t, g.t))
    _, phi = jax.lax.scan(step, (x, [nothing] * (width * remember)), (g, fine))
    phi = phi.astype(g.t.dtype)

    # registers: the sample, the one at the start of the step, the noise there, the directions remembered
    kept = width * remember
    count = 3 + kept
    unit = lambda j: [int(i == j) for i in range(count + 1)]
    hold: list[list[Entry]] = [unit(3 + j) for j in range(kept)]
    ask = table(process, g.t, [[g.keep, *[0] * (count - 1), g.gain], unit(0), _noise(g, count), *hold])
    gain = g.sigma_next - g.sigma * g.alpha_next / g.alpha
    noise = jnp.zeros((count + 1, len(g.t)), g.t.dtype).at[2].set(1.0)
    change = jnp.zeros_like(noise).at[1].set(1 / g.alpha).at[2].set(-g.sigma / g.alpha).at[count].set(-1.0)
    new = ways(g, noise, change)
    known = [*new, *[jnp.zeros_like(noise).at[3 + j].set(1.0) for j in range(kept)]]
    moved = gain * (noise + g.alpha_next / g.sigma_next / 2 * change)
    moved = moved.at[1].add(g.alpha_next / g.alpha)
    moved = sum((phi[:, k] * way for k, way in enumerate(known)), start=moved)
    shift = [*[list(way) for way in new], *hold][:kept]
    empty = [0] * (count + 1)
    answer = table(process, g.t_next, [list(moved), empty, empty, *shift])
    end = table(process, last.t, [[last.keep, *[0] * (count - 1), last.gain], *[empty] * (count - 1)])
    return concatenate(interleave(ask, answer), end)


def _noise(g: Steps, count: int) -> list[Entry]:
    return [1 / g.sigma, *[0] * (count - 1), -g.alpha / g.sigma]


def _prepare(
    name: str, process: Process, times: Float[Array, " n+1"], model: Model, substeps: int
) -> tuple[Steps, Steps, Estimate]:
    """The steps, ``[n]``; their parts, equal in time, ``[n, substeps]``; the model between centred samples."""
    checks.integer("substeps", substeps, low=2)
    g = steps(process, times)
    g.needs_signal(name)
    parts = g.t[:, None] + (g.t_next - g.t)[:, None] * jnp.arange(substeps, dtype=g.t.dtype) / substeps
    fine = steps(process, jnp.append(parts.reshape(-1), g.t_next[-1]))

    def estimate(x: PyTree, t: Array) -> PyTree:
        return centre(conform(model(uncentre(x, process.origin), t), x), process.origin)

    return g, jax.tree.map(lambda level: level.reshape(-1, substeps), fine), estimate


def _ddim(g: Steps, x: PyTree, m: PyTree) -> PyTree:
    return _sum((g.keep, x), (g.gain, m))


def _sum(*terms: tuple[Array | float, PyTree]) -> PyTree:
    """``sum_k weight_k tree_k``, in the trees' dtype."""
    weights, trees = zip(*terms, strict=True)

    def mix(*leaves: Array) -> Array:
        products = [jnp.asarray(w, leaf.dtype) * leaf for w, leaf in zip(weights, leaves, strict=True)]
        return sum(products[1:], start=products[0])

    return jax.tree.map(mix, *trees)


def _fit(target: PyTree, ways: list[PyTree]) -> Float[Array, " k"]:
    """Least squares over a batch; directions that are 0, or repeat others, get nothing that is not needed."""
    if not ways:
        return jnp.zeros(0)
    dot = lambda a, b: sum(jax.tree.leaves(jax.tree.map(jnp.vdot, a, b)))
    gram = jnp.stack([jnp.stack([dot(a, b) for b in ways]) for a in ways])
    size = jnp.sqrt(jnp.diagonal(gram))
    scale = jnp.where(size > 0, size, 1.0)
    right = jnp.stack([dot(a, target) for a in ways]) / scale
    return (
        jnp.linalg.solve(gram / jnp.outer(scale, scale) + RIDGE * jnp.eye(len(ways), dtype=gram.dtype), right) / scale
    )
