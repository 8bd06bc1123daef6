"""PAS: the direction of a step, corrected within the few directions that the trajectory has had so far.

In the coordinates of ``straight`` a step of DDIM or iPNDM is ``y' = y + (tau' - tau) d``. Sampling trajectories lie in
few dimensions, those of ``Q = [y_T, d_0, ..., d_i]``; PAS corrects ``d = d_i`` inside them,

    v_1, v_2, v_3   the principal components of Q (its rows less their mean)
    u_1 = d / |d|,  u_2, u_3, u_4   what v_1, v_2, v_3 have beside those before them, of unit length
    d <- |d| (c_1 u_1 + c_2 u_2 + c_3 u_3 + c_4 u_4)

with four numbers a step for all samples; ``c = (1, 0, 0, 0)`` is the base solver. A component's sign is that of its
product with ``y - y_T``. Coordinates are found one step after the other, each on the student's own samples, for the
teacher's place after the step, and kept only where they lower the loss by more than a tolerance: where the path bends.
A step's problem, ``min_c mean |y + (tau' - tau) d(c) - goal|^p``, is convex and solved by reweighted least squares.

Source: Wang, Peng, Li, Chen, Cai & Su 2025, Diffusion sampling correction via approximately 10 parameters (arXiv
2411.06503), algorithms 1 - 2. There ``|d|`` in the correction is a number learned for all samples, which in many
dimensions is the same; here it is each sample's own, so that zero correction is the base solver. Their program takes
Adam's steps for ``p = 1``; it corrects no first step, and while sampling (not while learning) it keeps a corrected
step's uncorrected direction in ``Q`` as well. Components beyond the rank of ``Q``, as float32
sees it, are 0 here, not arbitrary, so that learned numbers serve in any precision.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxsamplers import checks
from jaxsamplers.core import Model, SolverState, new_state, sample, take_rows
from jaxsamplers.denoisers import as_pytree
from jaxsamplers.learn.parameters import Parameters, parameters
from jaxsamplers.learn.straight import chosen, straight
from jaxsamplers.processes import Process, centre, uncentre
from jaxsamplers.solvers.deis import ADAMS_BASHFORTH
from jaxsamplers.tableau import conform

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, Key, PyTree

    Flat = Float[Array, "batch D"]

NOISE = 1e-4  # beside the largest, singular values below this may be float32's rounding
ROUNDS = 40  # of reweighting
SWEEPS = 8  # of rotations, which converge quadratically


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """A row a step.

    Attributes:
        time: what the network is shown.
        scale: of the coordinates at both ends of the step.
        tau: likewise.
        weights: of the newest slope and of those remembered, in the direction.
        correction: ``c - (1, 0, 0, 0)``.
    """

    time: Float[Array, " n"]
    scale: Float[Array, "n 2"]
    tau: Float[Array, "n 2"]
    weights: Float[Array, "n order"]
    correction: Float[Array, "n components"]


class Move(NamedTuple):
    """What a step is made of, before it is corrected."""

    y: Flat
    slope: Flat
    direction: Flat
    basis: Float[Array, "batch components D"]


@functools.partial(jax.tree_util.register_dataclass, data_fields=["rows", "origin"], meta_fields=["steps"])
@dataclasses.dataclass(frozen=True)
class Corrected:
    """The sampler; its memory is the trajectory ``Q``, ``[batch, steps + 1, D]``, and iPNDM's earlier slopes.

    Attributes:
        rows: the steps.
        origin: of the process.
        steps: how many directions there is room for.
    """

    rows: Rows
    origin: PyTree
    steps: int

    def __len__(self) -> int:
        return self.rows.time.shape[0]

    def __getitem__(self, rows: slice) -> Corrected:
        return take_rows(self, rows)

    def init(self, x: PyTree, key: Key[Array, ...] | None) -> SolverState:
        """The trajectory is the noise alone."""
        y = _flat(centre(x, self.origin)) / self.rows.scale[0, 0]
        trajectory = jnp.zeros((len(y), self.steps + 1, y.shape[1]), y.dtype).at[:, 0].set(y)
        older = self.rows.weights.shape[1] - 1
        return new_state(x, (trajectory, tuple(jnp.zeros_like(y) for _ in range(older))), key)

    def step(self, state: SolverState, row: Rows, model: Model) -> SolverState:
        """One network call, one corrected step."""
        return self.move(state, row, self.look(state, row, model), row.correction)

    def look(self, state: SolverState, row: Rows, model: Model) -> Move:
        """The base solver's direction and the basis to correct it in."""
        trajectory, older = state.memory
        y = _flat(centre(state.x, self.origin)) / row.scale[0]
        m = _flat(centre(conform(model(state.x, row.time), state.x), self.origin))
        slope = (y - m) / row.tau[0]
        direction = sum(weight * value for weight, value in zip(row.weights, (slope, *older), strict=True))
        components = row.correction.shape[0]
        basis = principal_basis(trajectory, direction, y, state.step, components)
        return Move(y, slope, direction, basis)

    def move(self, state: SolverState, row: Rows, look: Move, correction: Array) -> SolverState:
        """The step along the corrected direction."""
        trajectory, older = state.memory
        size = jnp.linalg.norm(look.direction, axis=1, keepdims=True)
        beside = jnp.einsum("k,bkd->bd", correction[1:], look.basis[:, 1:])
        direction = (1 + correction[0]) * look.direction + size * beside
        x = row.scale[1] * (look.y + (row.tau[1] - row.tau[0]) * direction)
        trajectory = jax.lax.dynamic_update_index_in_dim(trajectory, direction, state.step + 1, axis=1)
        memory = (trajectory, (look.slope, *older)[: len(older)])
        return SolverState(uncentre(_like(x, state.x), self.origin), memory, state.key, state.step + 1)


def principal_basis(
    trajectory: Float[Array, "batch rows D"], direction: Flat, y: Flat, step: Int[Array, ""], components: int
) -> Float[Array, "batch components D"]:
    """The direction and the principal components of the trajectory, orthonormal; 0 beyond its rank.

    Args:
        trajectory: the noise and the directions so far, of which the first ``step + 1`` rows are filled.
        direction: the newest.
        y: where the sample is.
        step: how many steps were taken.
        components: how many vectors, the direction among them.

    No derivative is taken through it: the basis is what the path was.
    """
    one = functools.partial(_principal_basis, step=step, components=components)
    return jax.lax.stop_gradient(jax.vmap(one)(trajectory, direction, y))


def _principal_basis(trajectory: Array, direction: Array, y: Array, step: Array, components: int) -> Array:
    filled = (jnp.arange(len(trajectory)) <= step + 1)[:, None]
    q = jax.lax.dynamic_update_index_in_dim(trajectory, direction, step + 1, axis=0)
    q = jnp.where(filled, q - jnp.sum(jnp.where(filled, q, 0.0), axis=0) / (step + 2), 0.0)
    spread, principal = _principal(q, components - 1)
    noise = NOISE * spread[0]
    moved = jnp.where(step == 0, y, y - trajectory[0])
    basis = [direction / _length(direction)]
    for k in range(components - 1):
        rest = principal[k]
        for _ in range(2):  # twice is enough for rounding
            for unit in basis:
                rest = rest - jnp.vdot(unit, rest) * unit
        real = jnp.linalg.norm(rest) * spread[k] > noise
        unit = jnp.where(real, rest / _length(rest), 0.0)
        basis.append(jnp.where(jnp.vdot(moved, unit) < 0, -unit, unit))
    return jnp.stack(basis)


def _principal(rows: Float[Array, "m D"], count: int) -> tuple[Float[Array, " count"], Float[Array, "count D"]]:
    """The largest singular values and their right vectors, of a few long rows.

    Gram-Schmidt makes a square problem of it and Jacobi's rotations make its rows orthogonal, all of a round at
    once: accurate for small singular values, and the same program on every device.
    """
    tiny = 10 * jnp.finfo(rows.dtype).eps

    def orthogonal(axes: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
        i, row = at
        part = axes @ row
        again = axes @ (row - part @ axes)  # twice is enough for rounding
        rest = row - (part + again) @ axes
        length = jnp.linalg.norm(rest)
        length = jnp.where(length > tiny * jnp.linalg.norm(row), length, 0.0)
        return axes.at[i].set(jnp.where(length > 0, rest / _length(rest), 0.0)), (part + again).at[i].set(length)

    axes, inside = jax.lax.scan(orthogonal, jnp.zeros_like(rows), (jnp.arange(len(rows)), rows))
    half = (len(rows) + 1) // 2
    square = jnp.pad(inside, [(0, 2 * half - len(rows)), (0, 0)])
    around = np.array([0, 2 * half - 1, *range(1, 2 * half - 1)])  # everyone meets everyone in 2 half - 1 rounds

    def meet(square: Array, _: None) -> tuple[Array, None]:
        a, b = square[:half], square[half:][::-1]
        product = jnp.sum(a * b, axis=1)
        apart = product != 0
        ratio = jnp.sum(b**2 - a**2, axis=1) / (2 * jnp.where(apart, product, 1.0))
        tangent = jnp.where(ratio < 0, -1.0, 1.0) / (jnp.abs(ratio) + jnp.sqrt(1 + ratio**2))
        tangent = jnp.where(apart, tangent, 0.0)[:, None]
        cosine = 1 / jnp.sqrt(1 + tangent**2)
        turned = jnp.concatenate([cosine * (a - tangent * b), (cosine * (tangent * a + b))[::-1]])
        return turned[around], None

    square, _ = jax.lax.scan(meet, square, length=SWEEPS * (2 * half - 1))
    spread = jnp.linalg.norm(square, axis=1)
    largest = jnp.argsort(-spread)[:count]
    spread, square = spread[largest], square[largest]
    vectors = square / jnp.where(spread > 0, spread, 1.0)[:, None] @ axes
    short = max(count - len(spread), 0)
    return jnp.pad(spread, (0, short)), jnp.pad(vectors, [(0, short), (0, 0)])


@functools.partial(jax.tree_util.register_dataclass, data_fields=["process"], meta_fields=["order", "straight_in"])
@dataclasses.dataclass(frozen=True)
class Pas:
    """``parameters -> Corrected``, made by ``pas``; used like a ``Builder``.

    Attributes:
        process: the noise process.
        order: how many slopes make a direction; 1 for DDIM, more for iPNDM.
        straight_in: "edm" or "flow".
    """

    process: Process
    order: int
    straight_in: str

    def __call__(self, parameters: Parameters) -> Corrected:
        """The sampler."""
        times = parameters.times(self.process)
        scale, tau = straight(self.process, times, self.straight_in)
        both = lambda values: jnp.stack([values[:-1], values[1:]], axis=1)
        used = [ADAMS_BASHFORTH[min(self.order, i + 1) - 1] for i in range(len(times) - 1)]
        weights = jnp.asarray(np.array([[*w, *[0.0] * (self.order - len(w))] for w in used]), times.dtype)
        correction = parameters.learned["coordinates"]
        rows = Rows(times[:-1], both(scale), both(tau), weights, correction)
        return Corrected(rows, self.process.origin, len(times) - 1)

    def sample(self, parameters: Parameters, model: Model, x: PyTree, key: Key[Array, ...] | None = None) -> PyTree:
        """The sample of the built sampler; derivatives take the basis of each step as it is."""
        return sample(self(parameters), model, x, key)


def pas(
    process: Process,
    steps: int,
    *,
    schedule: Float[Array, " n+1"] | None = None,
    order: int = 1,
    components: int = 4,
    coordinate: str | None = None,
) -> tuple[Pas, Parameters]:
    """What makes corrected DDIM or iPNDM, one network call a step, and parameters that correct nothing yet.

    Args:
        process: the noise process.
        steps: of the schedule.
        schedule: ``steps + 1`` times; equal in half-log-SNR (in time, where that is infinite) by default.
        order: 1 for DDIM, 2 to 4 for iPNDM; the authors take 3.
        components: numbers a step, 1 to 4 in the paper, which takes 4.
        coordinate: "edm", the paper's, or "flow", which exists for pure noise; by the first time by default.

    Raises:
        ValueError: an argument that is not allowed, or a schedule of another length.
    """
    checks.integer("order", order, low=1, high=4)
    checks.integer("components", components, low=1)
    base = parameters(process, steps, times=False, schedule=schedule)
    times = base.start["schedule"]
    learned = {"coordinates": jnp.zeros((steps, components), times.dtype)}
    return Pas(process, order, chosen(process, times, coordinate)), dataclasses.replace(base, learned=learned)


def pas_search(
    build: Pas,
    start: Parameters,
    model: Model,
    x: PyTree,
    path: PyTree,
    *,
    tolerance: float = 1e-4,
    power: float = 1.0,
) -> Parameters:
    """The coordinates of the steps that need them, found in one pass: ``n`` network calls on ``x``, no derivative.

    Args:
        build: made by ``pas``.
        start: likewise; what it has learned is not looked at.
        model: the denoiser.
        x: noises, ``[batch, ...]``; the authors take 5000.
        path: where the teacher is after each step, about the process's origin, ``[batch, steps, ...]``: what
            ``js.learn.along`` finds, with its first two axes exchanged.
        tolerance: by how much the mean of ``|difference|^power`` over the numbers of ``y`` must fall for a step to be
            corrected; the authors' 1e-4 to 1e-2 are for noise of size ``sigma / alpha`` and data of about unit scale.
        power: from 1, the paper's choice, to 2, least squares.

    Raises:
        ValueError: an argument that is not allowed, or a path of other steps or samples.
    """
    checks.within("tolerance", tolerance, 0.0)
    checks.within("power", power, 1.0, 2.0)
    steps = len(start.start["schedule"]) - 1
    wanted = jax.tree.map(lambda leaf: (leaf.shape[0], steps, *leaf.shape[1:]), x)
    if jax.tree.map(jnp.shape, path) != wanted:
        given = jax.tree.map(jnp.shape, path)
        raise ValueError(
            f"path must hold the teacher's place after each step, [batch, steps, ...]: {wanted}, not {given}"
        )
    kept = _search(build, start, as_pytree(model), x, path, jnp.asarray(tolerance), jnp.asarray(power))
    return dataclasses.replace(start, learned={"coordinates": kept})


@jax.jit
def _search(
    build: Pas, start: Parameters, model: Any, x: PyTree, path: PyTree, tolerance: Array, power: Array
) -> Float[Array, "n components"]:
    sampler = build(start)
    goals = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), path)

    def body(state: SolverState, at: tuple[Rows, PyTree]) -> tuple[SolverState, Array]:
        row, goal = at
        look = sampler.look(state, row, model)
        step = row.tau[1] - row.tau[0]
        size = jnp.linalg.norm(look.direction, axis=1)[:, None, None]
        columns = step * size * look.basis
        missing = _flat(goal) / row.scale[1] - look.y - step * look.direction
        found = _regression(columns, missing, power)
        loss = lambda c: jnp.mean(jnp.abs(missing - jnp.einsum("k,bkd->bd", c, columns)) ** power)
        found = jnp.where(loss(jnp.zeros_like(found)) - loss(found) > tolerance, found, 0.0)
        return sampler.move(state, row, look, found), found

    return jax.lax.scan(body, sampler.init(x, None), (sampler.rows, goals))[1]


def _regression(columns: Float[Array, "batch k D"], target: Flat, power: Array) -> Float[Array, " k"]:
    """The coefficients of least mean ``|target - coefficients columns|^power``, by reweighted least squares."""
    floor = 1e-4 * jnp.sqrt(jnp.mean(target**2)) + jnp.finfo(target.dtype).tiny
    length = jnp.sqrt(jnp.sum(columns**2, axis=(0, 2)))
    unit = columns / jnp.where(length > 0, length, 1.0)[:, None]
    ridge = jnp.diag(jnp.where(length > 0, 10 * jnp.finfo(target.dtype).eps, 1.0))

    def again(coefficients: Array, _: None) -> tuple[Array, None]:
        residual = target - jnp.einsum("k,bkd->bd", coefficients, unit)
        weight = jnp.maximum(jnp.abs(residual) / floor, 1.0) ** (power - 2)
        weight = weight / weight.mean()
        weighed = unit * weight[:, None]
        moments = jnp.einsum("bkd,bld->kl", weighed, unit) + ridge
        return _solve(moments, jnp.einsum("bkd,bd->k", weighed, target)), None

    coefficients, _ = jax.lax.scan(again, jnp.zeros_like(length), length=ROUNDS)
    return coefficients / jnp.where(length > 0, length, 1.0)


def _solve(matrix: Float[Array, "k k"], target: Float[Array, " k"]) -> Float[Array, " k"]:
    """Elimination for a few unknowns; a positive definite matrix needs no pivots."""
    both = jnp.concatenate([matrix, target[:, None]], axis=1)
    for i in range(len(matrix)):
        row = both[i] / both[i, i]
        both = (both - jnp.outer(both[:, i], row)).at[i].set(row)
    return both[:, -1]


def _length(vector: Array) -> Array:
    length = jnp.linalg.norm(vector)
    return jnp.where(length > 0, length, 1.0)


def _flat(x: PyTree) -> Flat:
    return jax.vmap(lambda one: ravel_pytree(one)[0])(x)


def _like(flat: Flat, x: PyTree) -> PyTree:
    return jax.vmap(ravel_pytree(jax.tree.map(lambda leaf: leaf[0], x))[1])(flat)
