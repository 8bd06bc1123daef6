"""Sampling parallel in time: network calls one after another, against the error they leave.

    nice python -m experiments.parallel_sampling --out docs/parallel.png

The digits' exact denoiser, three samplers, sixteen samples. Upper row: how many calls in depth, each of a window of
rows at once, it takes to come how close to the sampler itself (root mean square over pixels with the same noise, median
over samples), for what may stand still between sweeps; tolerances are shares of the noise level. Lower row: depth and
the number of all calls against the window. A dashed line is the sampler itself, one row after another.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxsamplers as js
from jaxsamplers import datasets, problems
from jaxsamplers.records.files import write_text

TOLERANCES = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
WINDOWS = (4, 8, 16, 32, 64)
USUAL, SHOWN = 0.003, 32  # the tolerance of the lower row, the window of the upper one
COUNT = 16
SAMPLERS: dict[str, tuple[int, Callable[..., js.Tableau]]] = {
    "UniPC-3": (20, functools.partial(js.solvers.unipc, order=3)),
    "DDIM": (50, js.solvers.ddim),
    "DDPM": (200, js.solvers.ddpm),
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One run in parallel.

    Attributes:
        sampler: its name.
        rows: how many there are, which is its depth without parallelism.
        kept: what stands still between sweeps.
        window: rows at a time.
        tolerance: as a share of the noise level.
        depth: network calls one after another.
        calls: rows in all of them.
        error: root mean square distance, over pixels, to what the sampler itself makes of the same noise: the median
            over samples.
        worst: the largest; a sample that leaves for another digit is about 1 away.
    """

    sampler: str
    rows: int
    kept: str
    window: int
    tolerance: float
    depth: int
    calls: int
    error: float
    worst: float


def skips(process: js.processes.Process, sampler: js.Tableau, deviation: float) -> dict[str, Any]:
    """What may stand still."""
    times = sampler.rows.time
    return {
        "estimate": jnp.zeros(len(sampler)),
        "noise": 1 / process.alpha(times),
        "rest of the normal part": js.parallel.normal_part(process, times, deviation),
    }


def measure(windows: Sequence[int] = WINDOWS, tolerances: Sequence[float] = TOLERANCES) -> list[Run]:
    """Every sampler, window, tolerance and slope; a program for each sampler and window."""
    process, problem = js.processes.vp_linear(), problems.digits()
    model, deviation = problem.denoiser(process), float(np.std(datasets.digits().train))
    x, key = process.prior(jax.random.key(0), (COUNT, *problem.shape)), jax.random.key(1)
    alone = jax.jit(lambda sampler: js.sample(sampler, model, x, key))

    @functools.partial(jax.jit, static_argnums=3)
    def together(sampler: js.Tableau, skip: Any, bound: Any, window: int) -> Any:
        run = js.parallel.picard(sampler, model, x, key, window=window, tolerance=bound, skip=skip)
        return run.x, run.sweeps, run.calls

    runs = []
    for name, (steps, solver) in SAMPLERS.items():
        times = js.schedules.half_log_snr(process, steps)
        sampler = jax.jit(lambda t, solver=solver: solver(process, t))(times)
        exact, level = alone(sampler), process.sigma(sampler.rows.time)
        for window in [w for w in windows if w < 2 * len(sampler)]:
            for kept, skip in skips(process, sampler, deviation).items():
                for tolerance in tolerances:
                    made, depth, calls = together(sampler, skip, tolerance * level, window)
                    errors = np.sqrt(np.mean((made - exact) ** 2, axis=(1, 2, 3)))
                    cost = int(depth), int(calls)
                    error = float(np.median(errors)), float(errors.max())
                    runs.append(Run(name, len(sampler), kept, window, tolerance, *cost, *error))
    return runs


def draw(runs: Sequence[Run], path: Path) -> None:
    """The picture of the module's docstring."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(run.sampler for run in runs))
    figure = Figure(figsize=(4.2 * len(names), 6.8), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, len(names), squeeze=False)
    for (upper, lower), name in zip(grid.T, names, strict=True):
        mine = [run for run in runs if run.sampler == name]
        rows, shown = mine[0].rows, max(run.window for run in mine if run.window <= SHOWN)
        for number, kept in enumerate(dict.fromkeys(run.kept for run in mine)):
            curve = [run for run in mine if run.kept == kept and run.window == shown]
            style: dict[str, Any] = {"color": f"C{number}", "marker": "osD"[number], "markersize": 4}
            upper.plot([r.error for r in curve], [r.depth for r in curve], label=f"kept: {kept}", **style)
            curve = [run for run in mine if run.kept == kept and run.tolerance == USUAL]
            lower.plot(
                [r.window for r in curve], [r.depth for r in curve], label="in depth" if not number else None, **style
            )
            lower.plot(
                [r.window for r in curve],
                [r.calls for r in curve],
                ":",
                label="in all" if not number else None,
                **style,
            )
        for axes in (upper, lower):
            axes.axhline(rows, color="0.5", linestyle="--", linewidth=1)
            axes.grid(alpha=0.25, linewidth=0.6)
            axes.set_ylabel("network calls")
        upper.set(xscale="log", xlabel=f"error, window of {shown}", title=f"{name}, {rows} rows")
        upper.set_ylim(0, 1.06 * rows)
        lower.set(xscale="log", yscale="log", xlabel=f"window, tolerance {USUAL} of the noise level")
        ticks = sorted({run.window for run in mine})
        lower.set_xticks(ticks, [str(tick) for tick in ticks])
        lower.minorticks_off()
    grid[0, -1].legend(fontsize=8)
    grid[1, -1].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the numbers beside the picture, and print the usual tolerance's."""
    parser = argparse.ArgumentParser(description="depth against error of sampling parallel in time")
    parser.add_argument(
        "--out", type=Path, default=Path("parallel.png"), help="the picture; numbers go to a .json beside it"
    )
    chosen = parser.parse_args(arguments)
    runs = measure()
    write_text(chosen.out.with_suffix(".json"), json.dumps([dataclasses.asdict(run) for run in runs], indent=0) + "\n")
    for run in runs:
        if run.tolerance == USUAL:
            print(
                f"{run.sampler:8} {run.rows:4} rows  window {run.window:3}  {run.kept:24}"
                f" depth {run.depth:4}  calls {run.calls:5}  error {run.error:.1e}, at most {run.worst:.1e}"
            )
    draw(runs, chosen.out)
    print(f"wrote {chosen.out} and {chosen.out.with_suffix('.json')}")


if __name__ == "__main__":
    main()
