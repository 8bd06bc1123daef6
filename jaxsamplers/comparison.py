"""How far solvers end from the exact solution of the probability flow, at equal numbers of network calls.

From one and the same start a deterministic solver with ``n`` rows and the flow itself reach different samples; the
distance between them is the solver's error. All runs are in float64 when ``jax.enable_x64`` is on, which tight
tolerances need. Padded to a common number of registers, all solvers of one length share a compiled program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np

from jaxsamplers import adaptive, checks
from jaxsamplers.core import Model, Sampler, network_calls, run
from jaxsamplers.tableau import Tableau, pad

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


class Measured(NamedTuple):
    """What came of one solver.

    Attributes:
        name: of the solver.
        points: one a budget it could use.
        refused: the reason, for each budget it could not use.
        stochastic: it draws noise, so that it has no error to the flow, and nothing was run.
    """

    name: str
    points: list[Point]
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
    model: Model,
    schedule: Callable[[int], Times],
    x: Float[Array, "starts ..."],
    goal: Float[Array, "starts ..."],
    budgets: Sequence[int],
) -> Iterator[Measured]:
    """The errors of each solver, one after the other.

    Args:
        solvers: name to ``(process, times) -> Sampler``.
        process: the noise process.
        model: the denoiser.
        schedule: ``steps -> times``; all from the time of ``x`` to the time of ``goal``.
        x: where every solver starts.
        goal: where the flow ends, see ``exact``.
        budgets: numbers of network calls; a solver takes the most steps that need no more.

    Raises:
        ValueError: a budget below 1. What a solver refuses is not raised but reported.
    """
    for budget in budgets:
        checks.integer("calls", budget, low=1)
    draw = jax.jit(lambda sampler, x: run(sampler, model, x).x)
    makers = {name: _maker(solver, process, schedule) for name, solver in solvers.items()}
    registers = max((_registers(make, max(budgets)) for make in makers.values()), default=1)
    for name, make in makers.items():
        points: list[Point] = []
        refused: dict[int, str] = {}
        stochastic = False
        for budget in budgets:
            found = within_budget(make, budget)
            if isinstance(found, str):
                refused[budget] = found
                continue
            stochastic = getattr(found, "stochastic", False)
            if stochastic:
                break
            calls = network_calls(found)
            if isinstance(found, Tableau):
                found = pad(found, max(registers, found.registers), stochastic=False)
            apart = np.asarray(draw(found, x) - goal).reshape(len(x), -1)
            distance = np.linalg.norm(apart, axis=1)
            points.append(Point(budget, calls, float(distance.mean()), float(np.median(distance))))
        yield Measured(name, points, refused, stochastic)


def within_budget(make: Callable[[int], Sampler], budget: int) -> Sampler | str:
    """The sampler with the most steps that makes at most ``budget`` network calls, or the reason why there is none.

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
            try:
                return make(steps)
            except (ValueError, TypeError) as error:
                return str(error)
        steps = min(steps - 1, -(-steps * budget // calls))
    return reason


def _maker(
    solver: Callable[..., Sampler], process: Process, schedule: Callable[[int], Times]
) -> Callable[[int], Sampler]:
    return lambda steps: solver(process, schedule(steps))


def _registers(make: Callable[[int], Sampler], steps: int) -> int:
    """How many registers a solver of that many steps has; 1 when it has none or refuses."""
    try:
        shape = jax.eval_shape(lambda: make(steps))
    except (ValueError, TypeError):
        return 1
    return shape.registers if isinstance(shape, Tableau) else 1
