"""What ``learned_vs_hand`` found, for people: a line, a table, pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def line(row: Row) -> str:
    """One result on one line."""
    name = f"{row['problem']:14s} {row['solver']:14s} {row['budget']:3d} calls  {row['method']:18s}"
    if "refused" in row:
        return f"{name} {row['refused']}"
    return f"{name} mean {row['mean']:.3e}  median {row['median']:.3e}  {row['seconds']:6.1f} s"


def ratios(rows: Sequence[Row], hand: str, number: str = "mean") -> dict[tuple[str, str, int, str], float]:
    """Each method's error as a multiple of the best hand-made schedule's, by problem, solver, budget and method."""
    base = {(r["problem"], r["solver"], r["budget"]): r[number] for r in rows if r["method"] == hand}
    return {
        (r["problem"], r["solver"], r["budget"], r["method"]): r[number] / base[r["problem"], r["solver"], r["budget"]]
        for r in rows
        if number in r and (r["problem"], r["solver"], r["budget"]) in base
    }


def markdown(rows: Sequence[Row], hand: str) -> str:
    """For each problem, a table: solver and budget down, methods across, mean errors relative to the hand-made best.

    The first column is that best itself: its mean error, and its schedule. The last line of each table is the
    geometric mean of the ratios; the seconds are medians over a table's fits, compilation included.
    """
    found = ratios(rows, hand)
    methods = [m for m in dict.fromkeys(r["method"] for r in rows) if m != hand]
    parts = []
    for problem in dict.fromkeys(r["problem"] for r in rows):
        own = [r for r in rows if r["problem"] == problem]
        lines = [f"**{problem}**", "", "| | calls | best by hand | " + " | ".join(methods) + " |"]
        lines.append("|---" * (3 + len(methods)) + "|")
        for best in (r for r in own if r["method"] == hand):
            name = (problem, best["solver"], best["budget"])
            cells = [_number(found.get((*name, method))) for method in methods]
            start = f"{best['mean']:.3g} ({best['schedule']})"
            lines.append(f"| {best['solver']} | {best['budget']} | {start} | " + " | ".join(cells) + " |")
        means = [_number(_geometric([v for k, v in found.items() if k[0] == problem and k[3] == m])) for m in methods]
        seconds = [
            _number(_median([r["seconds"] for r in own if r["method"] == m and "seconds" in r])) for m in methods
        ]
        lines.append("| geometric mean | | 1 | " + " | ".join(means) + " |")
        lines.append("| seconds | | | " + " | ".join(seconds) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def summary(rows: Sequence[Row], hand: str) -> str:
    """All problems together: geometric means of each number relative to the best hand-made schedule's.

    That best is by mean error. The distance to data has a floor, which the exact solution has too; the MMD, whose
    estimate may be negative, is with the results. Methods differ in what they are for, and so in their number of fits.
    """
    numbers = ("mean", "median", "sliced_wasserstein")
    problems = list(dict.fromkeys(r["problem"] for r in rows))
    names = ["fits", *(f"mean error, {p}" for p in problems), "median error", "sliced Wasserstein", "seconds"]
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    found = {number: ratios(rows, hand, number) for number in numbers}
    for method in dict.fromkeys(r["method"] for r in rows):
        fits = [r for r in rows if r["method"] == method and "mean" in r]
        if method == hand or not fits:
            continue
        means = [_geometric([v for k, v in found["mean"].items() if (k[0], k[3]) == (p, method)]) for p in problems]
        others = [_geometric([v for k, v in found[n].items() if k[3] == method]) for n in numbers[1:]]
        cells = [_number(value) for value in [*means, *others, _median([r["seconds"] for r in fits])]]
        lines.append(f"| {method} | {len(fits)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(rows: Sequence[Row], hand: str, out: Path) -> list[Path]:
    """A picture for each problem: mean error against network calls, one panel a solver."""
    from matplotlib.figure import Figure

    paths = []
    for problem in dict.fromkeys(r["problem"] for r in rows):
        own = [r for r in rows if r["problem"] == problem and "mean" in r]
        solvers = list(dict.fromkeys(r["solver"] for r in own))
        methods = list(dict.fromkeys(r["method"] for r in own))
        figure = Figure(figsize=(3.3 * len(solvers) + 1.8, 3.6), layout="constrained")
        for axes, solver in zip(figure.subplots(1, len(solvers), sharey=True, squeeze=False)[0], solvers, strict=True):
            for number, method in enumerate(methods):
                points = sorted((r["budget"], r["mean"]) for r in own if (r["solver"], r["method"]) == (solver, method))
                if points:
                    style: dict[str, Any] = (
                        {"color": "black", "lw": 2.2} if method == hand else {"color": f"C{number % 10}"}
                    )
                    dashes = "-" if number <= 10 else "--"
                    axes.plot(*zip(*points, strict=True), dashes, marker="o", ms=4, label=method, **style)
            axes.set(title=solver, xlabel="network calls", yscale="log")
            axes.grid(alpha=0.3, which="both")
        figure.axes[0].set_ylabel("mean distance to the exact solution")
        shown: dict[str, Any] = {}
        for axes in figure.axes:
            handles, labels = axes.get_legend_handles_labels()
            shown |= dict(zip(labels, handles, strict=True))
        named = [method for method in methods if method in shown]
        figure.legend(
            [shown[m] for m in named], named, loc="outside right center", fontsize=8, frameon=False, handlelength=3
        )
        figure.suptitle(problem)
        paths.append(out / f"{problem}.png")
        figure.savefig(paths[-1], dpi=110)
    return paths


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}" if value < 100 else f"{value:.0f}"


def _geometric(values: Sequence[float]) -> float | None:
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def _median(values: Sequence[float]) -> float | None:
    return sorted(values)[len(values) // 2] if values else None
