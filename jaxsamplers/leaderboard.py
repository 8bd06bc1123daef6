"""What a comparison found, for people: a table, a record of plain numbers, and pictures.

A solver is entered with the best of its schedules at each number of network calls, because a schedule can be chosen
freely and a bad pair says little about either; the record keeps every pair.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxsamplers.comparison import Measured


class Best(NamedTuple):
    """The best schedule of a solver at one budget.

    Attributes:
        error: the median distance to the exact solution.
        mean: the mean distance, with the same schedule.
        schedule: which it was.
        calls: network calls made.
    """

    error: float
    mean: float
    schedule: str
    calls: int


Board = dict[str, dict[int, Best]]


def board(results: Iterable[Measured], problem: str) -> Board:
    """Solver to budget to its best schedule, for one problem; errors that are not finite do not count."""
    found: Board = {}
    for result in results:
        for point in result.points.get(problem, []):
            entry = Best(point.median, point.mean, result.schedule, point.calls)
            before = found.setdefault(result.solver, {}).get(point.budget)
            if entry.error < float("inf") and (before is None or entry.error < before.error):
                found[result.solver][point.budget] = entry
    return {solver: entries for solver, entries in found.items() if entries}


def twins(boards: Mapping[str, Board]) -> dict[str, str]:
    """Solvers that are an earlier one under another name: the same errors on every problem, to rounding."""
    found: dict[str, str] = {}
    solvers = list(dict.fromkeys(solver for entries in boards.values() for solver in entries))
    for i, solver in enumerate(solvers):
        for other in solvers[:i]:
            if other not in found and all(_same(e.get(solver, {}), e.get(other, {})) for e in boards.values()):
                found[solver] = other
                break
    return found


def ranked(entries: Board, budget: int) -> list[str]:
    """Solvers by their error at ``budget``; those that have none there come last."""
    worst = Best(float("inf"), float("inf"), "", 0)
    return sorted(entries, key=lambda solver: entries[solver].get(budget, worst).error)


def table(entries: Board, budgets: Sequence[int], *, by: int, schedules: Sequence[str]) -> str:
    """Lines of median errors, best first at the budget ``by``; with the best of ``schedules`` if there are several."""
    several = len(schedules) > 1
    width = 10 + (max(map(len, schedules)) + 3) * several
    lines = [f"{'median error after N calls':28s}" + "".join(f"{budget:>{width}d}" for budget in budgets)]
    for solver in ranked(entries, by):
        cells = [_cell(entries[solver].get(budget), several) for budget in budgets]
        lines.append(f"{solver:28s}" + "".join(f"{cell:>{width}s}" for cell in cells))
    return "\n".join(lines)


def markdown(boards: Mapping[str, Board], *, by: int, rows: int) -> str:
    """One table for all problems: the ``rows`` solvers that come first most often, best at ``by`` calls.

    A solver's place is the mean of its ranks over the problems. A cell is ``error (schedule)`` at ``by`` calls.
    """
    places: dict[str, list[int]] = {}
    for entries in boards.values():
        for place, solver in enumerate(ranked(entries, by)):
            places.setdefault(solver, []).append(place)
    count = len(boards)
    mean = {solver: sum(found) / count for solver, found in places.items() if len(found) == count}
    chosen = sorted(mean, key=mean.__getitem__)[:rows]
    head = [f"| {by} calls | " + " | ".join(boards) + " |", "|---" * (count + 1) + "|"]
    body = [
        f"| `{solver}` | " + " | ".join(_cell(entries[solver].get(by), True) for entries in boards.values()) + " |"
        for solver in chosen
    ]
    return "\n".join(head + body)


def record(results: Iterable[Measured], problems: Iterable[str], **about: Any) -> dict[str, Any]:
    """Everything, in plain numbers: problem to solver to schedule to points, and what was refused and why."""
    results = list(results)
    errors = {
        problem: {
            solver: {
                r.schedule: [point._asdict() for point in r.points[problem]]
                for r in results
                if r.solver == solver and r.points.get(problem)
            }
            for solver in dict.fromkeys(r.solver for r in results if r.points.get(problem))
        }
        for problem in problems
    }
    refused = [
        {"solver": r.solver, "schedule": r.schedule, "calls": calls, "reason": " ".join(reason.split())}
        for r in results
        for calls, reason in r.refused.items()
    ]
    return {**about, "errors": errors, "refused": refused, "stochastic": [r.solver for r in results if r.stochastic]}


def notes(results: Iterable[Measured]) -> list[str]:
    """A line for every different reason of a refusal, and one for the solvers that were not run."""
    results = list(results)
    reasons: dict[tuple[str, str], list[str]] = {}
    for r in results:
        for reason in dict.fromkeys(r.refused.values()):
            reasons.setdefault((r.solver, " ".join(reason.split())), []).append(r.schedule)
    lines = [f"{solver}: {reason} ({', '.join(schedules)})" for (solver, reason), schedules in reasons.items()]
    random = [r.solver for r in results if r.stochastic]
    return lines + ([f"left out, they draw noise: {', '.join(random)}"] if random else [])


def draw(entries: Board, path: str | Path, *, families: Mapping[str, str], title: str) -> None:
    """Error against network calls, each solver with its best schedule; see ``plotting_compare.compare``."""
    from jaxsamplers import plotting_compare

    curves = {solver: [(b.calls, b.error) for b in row.values()] for solver, row in entries.items()}
    plotting_compare.compare(curves, path, families=families, title=title)


def _same(a: Mapping[int, Best], b: Mapping[int, Best]) -> bool:
    return a.keys() == b.keys() and all(math.isclose(a[n].error, b[n].error, rel_tol=1e-6) for n in a)


def _cell(best: Best | None, schedule: bool) -> str:
    if best is None:
        return "-"
    return f"{best.error:.2e} ({best.schedule})" if schedule else f"{best.error:.2e}"
