"""Schedules by dynamic programming: which of a teacher's many times a few steps should visit.

A teacher of many small steps visits the nodes ``t_0 > ... > t_M``. What would one straight step, DDIM's, cost from node
``i`` to node ``j``? With an answer for every pair the best path of ``n`` steps through the nodes is found exactly.

    GITS    the step starts where the teacher is, so costs are additive: one matrix, one teacher run, and then
            ``V_k(i) = min_j C_ij + gamma V_{k-1}(j)``
    OSS     the step starts where the student is: state ``(k, j)`` keeps the sample that ``k`` steps brought to node
            ``j`` closest to the teacher's, and later steps start from it

DDIM's step is the exact one for a constant estimate, on every process: Euler's in ``sigma / alpha`` of EDM, where GITS
is defined, and Euler's in time on the straight path, where OSS is.

Source: Chen, Zhou, Wang, Shen & Lyu 2024, On the trajectory regularity of ODE-based diffusion sampling (arXiv
2405.11326), section 5; Pei, Hu & Gu 2025, Optimal stepsize for diffusion sampling (arXiv 2503.21774).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsamplers import checks
from jaxsamplers.core import Model, run
from jaxsamplers.denoisers import as_pytree
from jaxsamplers.processes import Process, centre, uncentre
from jaxsamplers.schedules import validate
from jaxsamplers.solvers.dpm_solver_pp import dpm_solver_pp
from jaxsamplers.tableau import Tableau

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, PyTree

    Solver = Callable[..., Tableau]
    Times = Float[Array, " n+1"]

METRICS = ("dev", "l1", "l2")
COORDINATES = ("edm", "flow")
PATHS = ("median", "shared")


def shortest_path(cost: Float[Array, "M M"], steps: int, gamma: float = 1.0) -> Int[Array, " steps+1"]:
    """The nodes, from the first to the last, whose ``steps`` forward steps have the least ``sum_k gamma^k cost_k``.

    Args:
        cost: of a step from node ``i`` to a later node ``j``; what is not above the diagonal is not read.
        steps: how many, at most ``M - 1``.
        gamma: what each further step's cost is multiplied by; above 1, late steps count for more.

    Returns:
        Increasing indices, 0 first and ``M - 1`` last; of equally good paths, the one whose early nodes come first.

    Raises:
        ValueError: a cost that is no square matrix, more steps than there are nodes for, ``gamma`` not above 0.
    """
    cost = jnp.asarray(cost)
    if cost.ndim != 2 or cost.shape[0] != cost.shape[1]:
        raise ValueError(f"cost must be a square matrix, got shape {cost.shape}")
    nodes = cost.shape[0]
    checks.integer("steps", steps, low=1, high=nodes - 1)
    checks.within("gamma", gamma, 0.0, above=True)
    later = jnp.triu(jnp.ones((nodes, nodes), bool), 1)
    cost = jnp.where(later, cost, jnp.inf)

    def back(value: Array, _: None) -> tuple[Array, Array]:
        """Values and best next nodes with one step more to go."""
        total = cost + gamma * value
        return total.min(axis=1), total.argmin(axis=1)

    _, following = jax.lax.scan(back, cost[:, -1], None, length=steps - 1)

    def walk(node: Array, best: Array) -> tuple[Array, Array]:
        return best[node], best[node]

    _, inner = jax.lax.scan(walk, jnp.zeros((), following.dtype), following, reverse=True)
    ends = jnp.asarray([0, nodes - 1], following.dtype)
    return jnp.concatenate([ends[:1], inner[::-1], ends[1:]])


def gits(
    process: Process,
    model: Model,
    x: PyTree,
    fine_times: Times,
    steps: int,
    *,
    solver: Solver = dpm_solver_pp,
    metric: str = "dev",
    gamma: float = 1.15,
    coordinate: str = "edm",
) -> Float[Array, " steps+1"]:
    """The schedule whose straight steps leave the teacher's path the least; twice ``M`` network calls in all.

    Args:
        process: the noise process.
        model: the denoiser.
        x: noises at the first time, ``[batch, ...]``; the authors take 256.
        fine_times: ``M + 1`` decreasing times of the teacher, of which some are chosen; the authors take 61.
        steps: of the schedule.
        solver: the teacher, deterministic and of one network call a step; the authors take ``ipndm``.
        metric: of where a straight step ends: its "l1" or "l2" distance to the teacher, or "dev", how much further
            it is than the teacher from the chord between the teacher's two ends.
        gamma: what each further step's cost is multiplied by; a student's error grows on its way.
        coordinate: what distances are measured in, "edm" ``x / alpha``, or "flow" ``x / (alpha + sigma)``, where DDIM's
            steps are straight as well and which exists for pure noise.

    Raises:
        ValueError: an argument that is not allowed, or "edm" where the first time is pure noise.
    """
    fine_times = validate(process, fine_times)
    checks.integer("steps", steps, low=1, high=len(fine_times) - 1)
    checks.one_of("metric", metric, METRICS)
    checks.one_of("coordinate", coordinate, COORDINATES)
    checks.within("gamma", gamma, 0.0, above=True)
    if coordinate == "edm" and checks.is_zero(process.alpha(fine_times[0])):
        raise ValueError('coordinate="edm" needs signal at the first time, but alpha is 0 there: use "flow"')
    cost = straightness(process, as_pytree(model), x, fine_times, solver, metric, coordinate)
    return fine_times[shortest_path(cost, steps, gamma)]


def oss(
    process: Process,
    model: Model,
    x: PyTree,
    fine_times: Times,
    steps: int,
    *,
    solver: Solver = dpm_solver_pp,
    paths: str = "median",
) -> Float[Array, " steps+1"]:
    """The schedule of DDIM steps that end closest to the teacher; about ``steps * M`` network calls.

    Greedy in one respect: a state is judged by its distance to the teacher there, so that an error made early on
    cannot pay off later. The authors' program starts every search from noise at *every* node, which lets a path begin
    late, and lets a state keep a shorter path than its number of steps; here a path starts at the first node and has
    exactly ``steps`` steps. Which scale distances have does not matter, for only those at one node are compared.

    Args:
        process: the noise process.
        model: the denoiser.
        x: noises at the first time, ``[batch, ...]``.
        fine_times: ``M + 1`` decreasing times of the teacher, of which some are chosen; the authors take 100 to 200.
        steps: of the schedule.
        solver: the teacher, deterministic and of one network call a step; the authors take Euler's method.
        paths: "median", the authors' way: every sample has a path of its own, and step by step the median node of the
            batch is taken, a smooth schedule that serves other solvers better; or "shared": all samples take one path,
            whose mean squared error is what is minimised.

    Raises:
        ValueError: an argument that is not allowed.
    """
    fine_times = validate(process, fine_times)
    checks.integer("steps", steps, low=1, high=len(fine_times) - 1)
    checks.one_of("paths", paths, PATHS)
    nodes = nearest_paths(process, as_pytree(model), x, fine_times, solver, steps, paths == "shared").nodes
    ordered = jnp.sort(nodes, axis=1)
    half = nodes.shape[1] // 2
    odd = nodes.shape[1] % 2
    return fine_times[ordered[:, half] if odd else (ordered[:, half - 1] + ordered[:, half]) // 2]


class Paths(NamedTuple):
    """What ``nearest_paths`` found for every sample.

    Attributes:
        nodes: the indices of its schedule.
        error: the squared distance between its sample and the teacher's in the end; its mean, if paths are shared.
        sample: where it ends.
    """

    nodes: Int[Array, "steps+1 batch"]
    error: Float[Array, " batch"]
    sample: PyTree


@functools.partial(jax.jit, static_argnames=("solver", "metric", "coordinate"))
def straightness(
    process: Process, model: Model, x: PyTree, times: Times, solver: Solver, metric: str, coordinate: str
) -> Float[Array, "M+1 M+1"]:
    """The cost of a straight step between any two nodes of the teacher's path, mean over the batch; see ``gits``."""
    path = teacher_path(process, model, x, times, solver)
    alpha, sigma = process.alpha(times), process.sigma(times)
    scale = (alpha if coordinate == "edm" else alpha + sigma)[:, None, None]
    goal = jax.vmap(flat)(path) / scale
    chord = goal[-1] - goal[0]
    along = chord / jnp.linalg.norm(chord, axis=-1, keepdims=True)

    def deviation(z: Array) -> Array:
        rest = z - goal[-1]
        return jnp.linalg.norm(rest - jnp.sum(rest * along, axis=-1, keepdims=True) * along, axis=-1)

    def distance(z: Array) -> Array:
        if metric == "dev":
            return deviation(z) - deviation(goal)
        return jnp.linalg.norm(z - goal, ord={"l1": 1, "l2": 2}[metric], axis=-1)

    def row(node: Array) -> Array:
        here = jax.tree.map(lambda leaf: leaf[node], path)
        return distance(landings(process, model, here, times, node) / scale).mean(axis=1)

    cost = jax.lax.map(row, jnp.arange(len(times) - 1))
    cost = jnp.concatenate([cost, jnp.full_like(cost[:1], jnp.inf)])
    return jnp.where(jnp.triu(jnp.ones_like(cost, bool), 1), cost, jnp.inf)


@functools.partial(jax.jit, static_argnames=("solver", "steps", "shared"))
def nearest_paths(
    process: Process, model: Model, x: PyTree, times: Times, solver: Solver, steps: int, shared: bool
) -> Paths:
    """The path of each sample, or of all together, by the recursion of ``oss``."""
    path = teacher_path(process, model, x, times, solver)
    goal = jax.vmap(flat)(path)
    nodes, batch = goal.shape[:2]
    every = jnp.arange(nodes)[:, None]

    def round_of(iterates: Array, step: Array) -> tuple[Array, tuple[Array, Array]]:
        """One step more, from every node that ``step`` steps can have reached and from which the end can be."""

        def start(best: tuple[Array, Array, Array], node: Array) -> tuple[tuple[Array, Array, Array], None]:
            def better(best: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
                error, come_from, kept = best
                here = unflat(iterates[node], jax.tree.map(lambda leaf: leaf[0], path))
                landed = landings(process, model, here, times, node)
                apart = jnp.sum((landed - goal) ** 2, axis=-1)
                if shared:
                    apart = jnp.broadcast_to(apart.mean(axis=1, keepdims=True), apart.shape)
                closer = (apart < error) & (every > node)
                keep = jnp.where(closer[..., None], landed, kept)
                return jnp.where(closer, apart, error), jnp.where(closer, node, come_from), keep

            first = step == 0
            useful = jnp.where(first, node == 0, (node >= step) & (nodes - 1 - node >= steps - step))
            return jax.lax.cond(useful, better, lambda best: best, best), None

        nothing = (jnp.full((nodes, batch), jnp.inf, goal.dtype), jnp.zeros((nodes, batch), int), jnp.zeros_like(goal))
        (error, come_from, kept), _ = jax.lax.scan(start, nothing, jnp.arange(nodes - 1))
        return kept, (error, come_from)

    begin = jnp.zeros_like(goal).at[0].set(goal[0])
    last, (errors, come_from) = jax.lax.scan(round_of, begin, jnp.arange(steps))

    def back(node: Array, previous: Array) -> tuple[Array, Array]:
        before = previous[node, jnp.arange(batch)]
        return before, before

    end = jnp.full((batch,), nodes - 1)
    _, earlier = jax.lax.scan(back, end, come_from, reverse=True)
    final = unflat(last[-1], jax.tree.map(lambda leaf: leaf[0], path))
    return Paths(jnp.concatenate([earlier, end[None]]), errors[-1, -1], uncentre(final, process.origin))


def teacher_path(process: Process, model: Model, x: PyTree, times: Times, solver: Solver) -> PyTree:
    """Where the teacher is at every node, about the origin: ``[M + 1, batch, ...]``.

    Raises:
        ValueError: a teacher that draws noise or makes several network calls a step.
    """
    sampler = solver(process, times)
    if sampler.stochastic or len(sampler) != len(times) - 1:
        raise ValueError("solver, the teacher, must be deterministic and make one network call a step")
    state = sampler.init(x, None)
    _, path = run(sampler, model, state, record=lambda state: state.x)
    whole = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), state.x, path)
    return jax.vmap(lambda x: centre(x, process.origin))(whole)


def landings(process: Process, model: Model, here: PyTree, times: Times, node: Array) -> Float[Array, "M+1 batch D"]:
    """Where one straight step from ``node`` leads at every time, about the origin and flat."""
    alpha, sigma = process.alpha(times), process.sigma(times)
    m = centre(model(uncentre(here, process.origin), times[node]), process.origin)
    keep = (sigma / sigma[node])[:, None, None]
    gain = (alpha - alpha[node] * sigma / sigma[node])[:, None, None]
    return keep * flat(here) + gain * flat(m)


def flat(x: PyTree) -> Float[Array, "batch D"]:
    """A batch of samples as vectors."""
    return jnp.concatenate([leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(x)], axis=1)


def unflat(vectors: Float[Array, "batch D"], like: PyTree) -> PyTree:
    """The inverse of ``flat``."""
    leaves, treedef = jax.tree.flatten(like)
    sizes = np.cumsum([int(np.prod(leaf.shape[1:])) for leaf in leaves])[:-1]
    parts = jnp.split(vectors, sizes, axis=1)
    return jax.tree.unflatten(treedef, [p.reshape(leaf.shape) for p, leaf in zip(parts, leaves, strict=True)])
