"""DC-Solver: the newest answer is taken at a slightly different time than it was asked for.

A predictor-corrector remembers what the network said of the predicted sample, not of the corrected one. Before the
newest answer ``m_i`` is used to predict, it is replaced by the polynomial through it and the last ``K`` ones at

    t = rho_i t_i + (1 - rho_i) t_{i-1}:      c_i = l_0 m_i + l_1 c_{i-1} + ... + l_K c_{i-K}

where what is remembered are compensated answers ``c``. The corrector sees ``m_i`` itself beside compensated older ones.
All of this is linear in the answers, so that it is a transform of tables. ``rho = 1`` changes nothing, and the first
``K`` answers, which have too few before them, stay what they are.

The paper interpolates in the process's time, as here, and finds one ``rho`` after the other, from some ten noises: the
one that brings the corrected sample closest to where the teacher is. Learned together with everything else, by ``fit``,
they serve the last sample instead.

Source: Zhao, Wang, Zhou & Lu 2024, DC-Solver (arXiv 2409.03755), eq. 8 - 13 and algorithm 1; the authors' program
minimises with AdamW (40 steps of 0.1), where there are Gauss-Newton's steps here: there is one unknown.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsamplers import checks, solvers
from jaxsamplers.core import Model
from jaxsamplers.denoisers import as_pytree
from jaxsamplers.learn.unified import unified
from jaxsamplers.processes import centre
from jaxsamplers.tableau import ABSENT, Entry, Tableau, entries, table

if TYPE_CHECKING:
    from jaxtyping import Array, Float, PyTree

    from jaxsamplers.learn.builder import Builder
    from jaxsamplers.learn.parameters import Parameters

K = 2  # answers before the newest; the paper's choice
DEGREE = 3  # of the cascade in the step

WITH_CORRECTOR = (solvers.unipc, solvers.unic, solvers.dpm_solver_v3, unified)


def compensated(
    tableau: Tableau,
    nodes: Float[Array, " n"],
    ratios: Float[Array, " n"],
    *,
    k: int = K,
    corrected: int | None = None,
) -> Tableau:
    """The solver with compensated answers.

    Args:
        tableau: a table of one network call a step, whose answers are estimates whatever it combines.
        nodes: the time of each answer, decreasing.
        ratios: ``rho``, one a call; 1 leaves the answer as it is, and the first ``k`` are not read.
        k: how many earlier answers are interpolated.
        corrected: the register that holds the corrected sample, which the answer itself corrects; ``None`` if there is
            no corrector. See ``corrected_register``.

    Raises:
        ValueError: not one ratio and one node a call, times that do not decrease, or no such register.
    """
    calls, count = len(tableau), tableau.registers
    checks.integer("k", k, low=1)
    if jnp.shape(ratios) != (calls,) or jnp.shape(nodes) != (calls,):
        raise ValueError(
            f"nodes and ratios must be one for each of the {calls} network calls, "
            f"got shapes {jnp.shape(nodes)} and {jnp.shape(ratios)}"
        )
    known = checks.concrete(nodes)
    if known is not None and not (np.diff(known) < 0).all():
        raise ValueError(f"compensation needs one network call a step, at decreasing times, got {known}")
    if corrected is not None:
        checks.integer("corrected", corrected, low=1, high=count - 1)
    change, older = _interpolation(jnp.asarray(nodes), jnp.asarray(ratios), k)

    weights, noise = entries(tableau)
    predicts = [_predicting(tableau, weights, row, corrected) for row in range(count)]
    none: list[Entry] = [0] * k
    rows: list[list[Entry]] = []
    for row, used in zip(weights, predicts, strict=True):
        if used is None:
            rows.append([*row[:-1], *none, row[-1]])
        else:
            rows.append([*row[:-1], *[_times(used, weight) for weight in older], row[-1] + _times(used, change)])
    rows.append([*[0] * count, *older, 1 + change])
    rows += [[int(j == count + held) for j in range(count + k + 1)] for held in range(k - 1)]
    old = tableau.rows
    constant = None if old.constant is None else [*jnp.moveaxis(old.constant, 1, 0), *none]
    made = table(None, old.time, rows, [*noise, *none], old.extra, constant)
    return dataclasses.replace(made, origin=tableau.origin)


def corrected_register(solver: Any) -> int | None:
    """Which register of a solver's table holds the corrected sample; ``None`` for solvers that only predict."""
    while isinstance(solver, functools.partial):
        solver = solver.func
    return 1 if solver in WITH_CORRECTOR else None


def dc_solver(
    build: Builder, parameters: Parameters, model: Model, x: PyTree, path: PyTree, *, iterations: int = 10
) -> Parameters:
    """The ratios, found one after the other; ``n (iterations + 2)`` network calls of a small batch, with derivatives.

    Args:
        build: parameters -> sampler, deterministic and of one network call a step.
        parameters: with ``ratios``; what else is learned stays as it is.
        model: the denoiser.
        x: noises, ``[batch, ...]``; the authors take 10.
        path: where the teacher is after each step, ``[batch, n, ...]``.
        iterations: of Gauss-Newton for each ratio. The best ratio seen is taken, which 1 is among.

    Raises:
        ValueError: parameters without ratios, a sampler that draws noise, or a path of another length.
    """
    checks.integer("iterations", iterations, low=1)
    if "ratios" not in parameters.learned:
        raise ValueError("parameters have no ratios: make them with js.learn.parameters(..., ratios=True)")
    calls = len(parameters.learned["ratios"])
    lengths = {jnp.shape(leaf)[1] for leaf in jax.tree.leaves(path)}
    if lengths != {calls}:
        raise ValueError(f"path must have a place for each of the {calls} steps, got {sorted(lengths)}")
    ratios = _greedy(build, parameters, as_pytree(model), x, path, iterations)
    return dataclasses.replace(parameters, learned=parameters.learned | {"ratios": ratios})


@functools.partial(jax.jit, static_argnames=("iterations",))
def _greedy(
    build: Builder, parameters: Parameters, model: Model, x: PyTree, path: PyTree, iterations: int
) -> Float[Array, " n"]:
    first = build(parameters)
    if first.stochastic:
        raise ValueError("compensation ratios are found for samplers that draw no noise")
    calls, register = len(first), corrected_register(build.solver)
    goals = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), path)

    def made(ratios: Array) -> Tableau:
        return build(dataclasses.replace(parameters, learned=parameters.learned | {"ratios": ratios}))

    def step(carry: tuple[Any, Array], inputs: tuple[Array, PyTree]) -> tuple[tuple[Any, Array], None]:
        state, ratios = carry
        i, goal = inputs
        row = lambda tableau, i: jax.tree.map(lambda leaf: leaf[i], tableau.rows)
        said = model(state.x, first.rows.time[i], **row(first, i).extra)

        def miss(ratio: Array) -> PyTree:
            """How far from the goal the step ends, corrected if it will be."""
            tableau = made(ratios.at[i].set(ratio))
            after = tableau.step(state, row(tableau, i), lambda *_, **__: said)
            ends = centre(after.x, tableau.origin)
            if register is not None:
                again = tableau.step(after, row(tableau, jnp.minimum(i + 1, calls - 1)), model)
                pick = lambda predicted, later: jnp.where(i < calls - 1, later, predicted)
                ends = jax.tree.map(pick, ends, again.memory[register - 1])
            return jax.tree.map(jnp.subtract, ends, centre(goal, tableau.origin))

        def improve(carry: tuple[Array, Array, Array], _: None) -> tuple[tuple[Array, Array, Array], None]:
            ratio, best, least = carry
            off, slope = jax.jvp(miss, (ratio,), (jnp.ones_like(ratio),))
            loss, size = _dot(off, off), _dot(slope, slope)
            better = loss < least
            best, least = jnp.where(better, ratio, best), jnp.where(better, loss, least)
            move = -_dot(slope, off) / jnp.where(size > 0, size, 1.0)
            return (ratio + jnp.clip(jnp.where(size > 0, move, 0.0), -1.0, 1.0), best, least), None

        zero = jnp.zeros_like(ratios[0])
        (_, best, _), _ = jax.lax.scan(improve, (zero, zero, jnp.full_like(zero, jnp.inf)), length=iterations + 1)
        ratios = ratios.at[i].set(best)
        tableau = made(ratios)
        return (tableau.step(state, row(tableau, i), lambda *_, **__: said), ratios), None

    start = first.init(build.begin(parameters, x), None)
    ratios = jnp.zeros_like(parameters.learned["ratios"])
    (_, ratios), _ = jax.lax.scan(step, (start, ratios), (jnp.arange(calls), goals))
    return ratios


@functools.partial(jax.tree_util.register_dataclass, data_fields=["coefficients"], meta_fields=["k"])
@dataclasses.dataclass(frozen=True)
class Cascade:
    """``(calls, scale) -> ratios``, made by ``cascade``.

    Attributes:
        coefficients: of powers of the step, the guidance scale and the number of calls, each as a fraction, in rising
            order. The authors' files have them falling in the last two: ``file.reshape(-1, 3, 3)[:, ::-1, ::-1]``.
        k: how many ratios stay 1.
    """

    coefficients: Float[Array, "d+1 3 3"]
    k: int = K

    def __call__(self, calls: int, scale: float) -> Float[Array, " calls"]:
        """The ratios ``rho``, one a call."""
        checks.integer("calls", calls, low=1)
        step, guidance, budget = _powers(calls, scale, len(self.coefficients) - 1)
        found = np.einsum("ni,j,k,ijk->n", step, guidance, budget, np.asarray(self.coefficients))
        return jnp.asarray(np.where(np.arange(calls) < self.k, 1.0, found))


def cascade(ratios: Mapping[tuple[int, float], Float[Array, " n"]], *, degree: int = DEGREE, k: int = K) -> Cascade:
    """Ratios for settings that none were learned for: cascade polynomial regression.

    The ratio is a polynomial in the step whose coefficients are polynomials of degree 2 in the guidance scale, whose
    coefficients are polynomials of degree 2 in the number of calls. That is one polynomial with all products of powers,
    and linear in its coefficients, so that least squares have a closed form; of all best fits to few settings the
    smallest is taken.

    Args:
        ratios: ``rho``, one a call, by number of network calls and guidance scale.
        degree: of the polynomial in the step; 3 in the coefficients that the authors publish.
        k: how many ratios stay 1.

    Raises:
        ValueError: no settings, or not as many ratios as calls.
    Source: Zhao et al. 2024 (arXiv 2409.03755), section 3.3; the fractions are of their program, which only evaluates.
    """
    checks.integer("k", k, low=1)
    checks.integer("degree", degree, low=0)
    if not ratios:
        raise ValueError("ratios must hold at least one setting: {(calls, scale): ratios}")
    rows, values = [], []
    for (calls, scale), found in ratios.items():
        if np.shape(found) != (calls,):
            raise ValueError(f"there must be {calls} ratios for {calls} calls, got shape {np.shape(found)}")
        step, guidance, budget = _powers(calls, scale, degree)
        rows.append(np.einsum("ni,j,k->nijk", step, guidance, budget).reshape(calls, -1)[k:])
        values.append(np.asarray(found, float)[k:])
    solution = np.linalg.lstsq(np.concatenate(rows), np.concatenate(values), rcond=None)[0]
    return Cascade(jnp.asarray(solution.reshape(degree + 1, 3, 3)), k)


def _powers(calls: int, scale: float, degree: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Powers of the step as a fraction of all, of the scale in twelfths and of the calls in fiftieths."""
    step = (np.arange(calls) + 1) / calls
    return step[:, None] ** np.arange(degree + 1), (scale / 12) ** np.arange(3), (calls / 50) ** np.arange(3)


def _interpolation(
    nodes: Float[Array, " n"], ratios: Float[Array, " n"], k: int
) -> tuple[Float[Array, " n"], list[Float[Array, " n"]]]:
    """``l_0 - 1`` and ``l_1, ..., l_k``: exactly 0 where the ratio is 1 and for the first ``k`` answers."""
    calls = len(nodes)
    there = jnp.arange(calls) >= k
    step = nodes - jnp.roll(nodes, 1)
    past = [jnp.where(there, jnp.roll(nodes, j) - nodes, float(j)) for j in range(k + 1)]  # from the newest's time
    at = jnp.where(there, (ratios - 1) * step, 0.0)
    older = []
    for j in range(1, k + 1):
        weight = at / past[j]
        for other in range(1, k + 1):
            if other != j:
                weight = weight * (at - past[other]) / (past[j] - past[other])
        older.append(weight)
    return -sum(older[1:], start=older[0]), older


def _predicting(tableau: Tableau, weights: list[list[Entry]], row: int, corrected: int | None) -> Entry | None:
    """The part of the answer's weight in a register that is not the corrector's; ``None`` for none."""
    own = weights[row][-1]
    if tableau.pattern[row][tableau.registers] == ABSENT or row == corrected:
        return None
    if corrected is None or tableau.pattern[row][corrected] == ABSENT:
        return own
    through = weights[corrected][corrected]
    share = jnp.where(through == 0, 0.0, weights[row][corrected] / jnp.where(through == 0, 1.0, through))
    return own - share * weights[corrected][-1]


def _times(used: Entry, weight: Float[Array, " n"]) -> Array:
    extra = max(jnp.ndim(used) - 1, 0)
    return used * weight.reshape(weight.shape + (1,) * extra)


def _dot(a: PyTree, b: PyTree) -> Array:
    return jnp.stack(jax.tree.leaves(jax.tree.map(jnp.vdot, a, b))).sum()
