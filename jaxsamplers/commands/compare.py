"""``compare``: the leaderboard of solvers and schedules, by their error to the exact solution."""

from __future__ import annotations

import argparse
import functools
import json
from pathlib import Path

from jaxsamplers import checks, processes, solvers
from jaxsamplers.commands.files import check_pictures, complete, need
from jaxsamplers.commands.options import problem_of, schedules_of


def compare(options: argparse.Namespace) -> None:
    """Measure, print, draw and record."""
    checks.integer("--count", options.count, low=1)
    for calls in options.calls:
        checks.integer("--calls", calls, low=1)
    chosen = {name: checks.look_up("solver", name, solvers.registry) for name in options.solver or solvers.registry}
    make = checks.look_up("process", options.process, processes.registry)
    budgets = sorted(set(options.calls))
    named = options.problem or ["mixture"]
    check_pictures(options.out)
    need("matplotlib", "diffrax")

    import jax
    import jax.numpy as jnp

    from jaxsamplers import comparison, leaderboard

    problems = {name.rpartition(":")[2]: problem_of(name) for name in named}
    with jax.enable_x64(True):
        process = make()
        grids, left_out = schedules_of(options, process, budgets)
        first = next(iter(grids.values()))(budgets[-1])
        about = f"{options.process}, {' '.join(grids) if len(grids) < 4 else f'best of {len(grids)} schedules'}"
        tasks = {}
        for name, problem in problems.items():
            print(f"{name}, {about}: exact solution of {options.count} starts", flush=True)
            model = problem.denoiser(process)
            like = jax.ShapeDtypeStruct((options.count, *problem.shape), jnp.float64)
            x = process.prior(jax.random.key(options.seed), like, t=first[0])
            tasks[name] = comparison.Task(model, x, comparison.exact(process, model, x, first))
        leading, by = next(iter(tasks)), 10 if 10 in budgets else budgets[len(budgets) // 2]
        table = functools.partial(leaderboard.table, budgets=budgets, by=by, schedules=list(grids))
        results: list[comparison.Measured] = []
        for measured in comparison.measure(chosen, process, grids, tasks, budgets):
            results.append(measured)
            done = [r for r in results if r.solver == measured.solver]
            if len(done) == len(grids) and (entry := leaderboard.board(done, leading)):
                print("\n".join(table(entry).splitlines()[len(results) > len(done) :]), flush=True)
    boards = {name: leaderboard.board(results, name) for name in tasks}
    twins = leaderboard.twins(boards)
    boards = {name: {s: row for s, row in entries.items() if s not in twins} for name, entries in boards.items()}
    for name, board in boards.items():
        if board and len(chosen) > 1:
            print(f"\n{name}, {about}\n{table(board)}")
    notes = [f"{solver}: the same as {other}" for solver, other in twins.items()] + leaderboard.notes(results)
    notes += [f"schedule {name} left out: {reason}" for name, reason in left_out.items()]
    if not any(boards.values()):
        raise ValueError(f"no solver has an error to show ({'; '.join(notes)})")
    if notes:
        print("", *notes, sep="\n")
    ends = [float(first[0]), float(first[-1])]
    numbers = leaderboard.record(
        results, tasks, process=options.process, times=ends, starts=options.count, seed=options.seed
    )
    pictures = {name: _beside(options.out, name if len(tasks) > 1 else "") for name, board in boards.items() if board}
    families = {name: solver.__module__ for name, solver in chosen.items()}
    with complete(*pictures.values(), options.out.with_suffix(".json")) as drafts:
        for (name, board), draft in zip(((n, b) for n, b in boards.items() if b), drafts, strict=False):
            leaderboard.draw(board, draft, families=families, title=f"{name}, {about}")
        drafts[-1].write_text(json.dumps(numbers, indent=1) + "\n")
    print(f"\nwrote {', '.join(map(str, pictures.values()))} and {options.out.with_suffix('.json')}")
    if len(boards) > 1:
        print(f"\n{leaderboard.markdown(boards, by=by, rows=10)}")


def _beside(path: Path, name: str) -> Path:
    return path.with_name(f"{path.stem}-{name}{path.suffix}") if name else path
