"""How far solvers end from the exact solution of the probability flow, at equal numbers of network calls.

From one and the same start a deterministic solver with ``n`` rows and the flow itself reach different samples; the
distance between them is the solver's error. All runs are in float64 when ``jax.enable_x64`` is on, which tight
tolerances need. Padded to a common number of registers and rows, all solvers of one budget share a compiled program.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsamplers import adaptive, checks
from jaxsamplers.core import Model, Sampler, network_calls, run
from jaxsamplers.tableau import Rows, Tableau, pad

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from jaxsamplers.processes import Process

    Times = Float[Array, " n+1"]

TOLERANCE = 1e-9  # of the exact solution, far below any error worth plotting


class Point(NamedTuple):
    """The error of a solver at one budget.

    Attributes:
        budget: how many network calls were allowed.
        calls: how many were made.
        mean: Euclidean distance to the exact solution, averaged over starts.
        median: the same distance at the middle one.
    """

    budget: int
    calls: int
    mean: float
    median: float


class Task(NamedTuple):
    """A problem made ready: everybody starts at ``x`` and should end at ``goal``.

    Attributes:
        model: the denoiser.
        x: the starts, ``[starts, ...]``.
        goal: where the flow ends, see ``exact``.
    """

    model: Model
    x: Float[Array, "starts ..."]
    goal: Float[Array, "starts ..."]


class Measured(NamedTuple):
    """What came of one solver on one schedule.

    Attributes:
        solver: its name.
        schedule: its name; empty for a stochastic solver, which is not run.
        points: for each problem, one point a budget that could be used.
        refused: the reason, for each budget that could not be used.
        stochastic: it draws noise, so that it has no error to the flow, and nothing was run.
    """

    solver: str
    schedule: str
    points: dict[str, list[Point]]
    refused: dict[int, str]
    stochastic: bool = False


def exact(process: Process, model: Model, x: Array, times: Times) -> Array:
    """The flow's solution from ``x`` at the first of ``times`` to the last.

    Raises:
        RuntimeError: the tolerance was not reached.
    """
    first, last = float(times[0]), float(times[-1])

    def solve(x: Array) -> Array:
        return adaptive.solve(process, model, x, t_start=first, t_end=last, rtol=TOLERANCE, atol=TOLERANCE)

    return jax.jit(solve)(x)


def measure(
    solvers: Mapping[str, Callable[..., Sampler]],
    process: Process,
    schedules: Mapping[str, Callable[[int], Times]],
    tasks: Mapping[str, Task],
    budgets: Sequence[int],
) -> Iterator[Measured]:
    """The errors of every solver on every schedule, one after the other.

    Args:
        solvers: name to ``(process, times) -> Sampler``.
        process: the noise process.
        schedules: name to ``steps -> times``; all from the time of the starts to the time of the goals.
        tasks: name to problem.
        budgets: numbers of network calls; a solver takes the most steps that need no more.

    Raises:
        ValueError: a budget below 1. What a solver or a schedule refuses is not raised but reported.
    """
    for budget in budgets:
        checks.integer("calls", budget, low=1)
    draws = {name: jax.jit(functools.partial(_draw, task.model)) for name, task in tasks.items()}
    any_schedule = next(iter(schedules.values()))
    shapes = {name: _shape(_maker(solver, process, any_schedule), max(budgets)) for name, solver in solvers.items()}
    registers = max((s.registers for s in shapes.values() if isinstance(s, Tableau) and not s.stochastic), default=1)

    def errors(sampler: Sampler, budget: int) -> dict[str, Point]:
        calls = network_calls(sampler)
        if isinstance(sampler, Tableau):
            sampler = _idle(pad(sampler, max(registers, sampler.registers), stochastic=False), budget - calls)
        found = {}
        for problem, task in tasks.items():
            apart = np.asarray(draws[problem](sampler, task.x) - task.goal).reshape(len(task.x), -1)
            distance = np.linalg.norm(apart, axis=1)
            found[problem] = Point(budget, calls, float(distance.mean()), float(np.median(distance)))
        return found

    for name, solver in solvers.items():
        if getattr(shapes[name], "stochastic", False):
            yield Measured(name, "", {}, {}, stochastic=True)
            continue
        most: dict[int, int | str] = {}
        for schedule, times in schedules.items():
            make = _maker(solver, process, times)
            points: dict[str, list[Point]] = {problem: [] for problem in tasks}
            refused: dict[int, str] = {}
            for budget in budgets:
                if not isinstance(most.get(budget), int):  # as a rule it does not depend on the schedule
                    most[budget] = steps_within(make, budget)
                sampler = _build(make, most[budget])
                if isinstance(sampler, str):
                    refused[budget] = sampler
                    continue
                for problem, point in errors(sampler, budget).items():
                    points[problem].append(point)
            yield Measured(name, schedule, points, refused)


def steps_within(make: Callable[[int], Sampler], budget: int) -> int | str:
    """The most steps that make at most ``budget`` network calls, or the reason why there are none.

    Args:
        make: ``steps -> sampler``; its network calls grow with the steps, by at least one a step.
        budget: network calls.
    """
    steps, reason = budget, f"makes more than {budget} network call{'s' * (budget > 1)} in one step"
    while steps >= 1:
        try:
            calls = network_calls(jax.eval_shape(lambda steps=steps: make(steps)))  # counted without computing
        except (ValueError, TypeError) as error:
            steps, reason = steps - 1, str(error)
            continue
        if calls <= budget:
            return steps
        steps = min(steps - 1, -(-steps * budget // calls))
    return reason


def _build(make: Callable[[int], Sampler], steps: int | str) -> Sampler | str:
    if isinstance(steps, str):
        return steps
    try:
        return make(steps)
    except (ValueError, TypeError) as error:
        return str(error)


def _draw(model: Model, sampler: Sampler, x: Array) -> Array:
    return run(sampler, model, x).x


def _idle(tableau: Tableau, count: int) -> Tableau:
    """With ``count`` rows more that change nothing, so that one compiled program runs all solvers of a budget."""
    if not count:
        return tableau
    same = np.concatenate([np.eye(tableau.registers), np.zeros((tableau.registers, 1))], axis=1)

    def more(leaf: Array, value: Any) -> Array:
        return jnp.concatenate([leaf, jnp.broadcast_to(value, (count, *leaf.shape[1:]))])

    rows = tableau.rows
    weights = same.reshape(same.shape + (1,) * (rows.weights.ndim - 3))
    extra = {name: more(values, values[-1]) for name, values in rows.extra.items()}
    constant = None if rows.constant is None else more(rows.constant, 0.0)
    rows = Rows(more(rows.time, rows.time[-1]), more(rows.weights, weights), more(rows.noise, 0.0), extra, constant)
    return dataclasses.replace(tableau, rows=rows)


def _maker(
    solver: Callable[..., Sampler], process: Process, schedule: Callable[[int], Times]
) -> Callable[[int], Sampler]:
    return lambda steps: solver(process, schedule(steps))


def _shape(make: Callable[[int], Sampler], steps: int) -> Sampler | None:
    """A solver of that many steps without its numbers; ``None`` when it refuses."""
    try:
        return jax.eval_shape(lambda: make(steps))
    except (ValueError, TypeError):
        return None
