"""Schedules as small pictures side by side: where the steps are, and how densely.

A panel shows the noise level ``sigma / alpha`` against the step, over all the other schedules in grey, and on its right
the share of steps per unit of the logarithm, on the same vertical axis: one bar a step, all bars of one area. Schedules
with the same times share a panel.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxsamplers import checks
from jaxsamplers.plotting_compare import COLOURS

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from jaxsamplers.processes import Process

    Times = Float[Array, " n+1"]
    Levels = Float[np.ndarray, " n+1"]

CROWD = 3.5  # the density that reaches the edge of a panel, as a multiple of that of equal steps
LEVELS = 1e-3, 1e3  # noise levels beyond these are drawn only if no schedule has others


def draw(
    process: Process,
    schedules: Mapping[str, Times],
    path: str | Path,
    *,
    families: Mapping[str, str] | None = None,
    title: str | None = None,
) -> None:
    """All schedules of a process in one picture.

    Args:
        process: turns times into noise levels.
        schedules: name to times; they may differ in length.
        path: the file to write; its ending says which format (png, pdf, svg).
        families: name to family, which share a colour; one colour for all by default.
        title: above the picture.

    Raises:
        ValueError: nothing to draw.
        ModuleNotFoundError: matplotlib is not installed.
    """
    if not schedules:
        raise ValueError("there is nothing to draw: no schedule")
    from matplotlib.figure import Figure

    panels = _panels(schedules)
    levels = {names: _levels(process, schedules[names[0]]) for names in panels}
    limits = _limits(list(levels.values()))
    colours = dict(zip(dict.fromkeys((families or {}).values()), COLOURS, strict=False))
    columns = min(range(min(len(panels), 4), min(len(panels), 6) + 1), key=lambda c: (-len(panels) % c, -c))
    lines = -(-len(panels) // columns)
    wide, high = 2.7 * columns + 0.8, 2.3 * lines + 1.0
    figure = Figure(figsize=(wide, high))
    sides = {"left": 0.65 / wide, "right": 1 - 0.15 / wide, "bottom": 0.5 / high, "top": 1 - 0.7 / high}
    grid = figure.add_gridspec(lines, columns, **sides, wspace=0.1, hspace=0.25)
    for number, (names, level) in enumerate(levels.items()):
        cell = grid[divmod(number, columns)].subgridspec(1, 2, width_ratios=(3, 1), wspace=0.03)
        left = figure.add_subplot(cell[0])
        right = figure.add_subplot(cell[1], sharey=left)
        colour = colours.get((families or {}).get(names[0], ""), COLOURS[0])
        for other in levels.values():
            _curve(left, other, limits, color="0.88", linewidth=0.7, zorder=1)
        _curve(left, level, limits, color=colour, marker="o", markersize=2.6, linewidth=1.2, zorder=3)
        _density(right, level, limits, colour)
        _frame(left, right, limits, first=number % columns == 0, last=number + columns >= len(panels))
        name = " = ".join(names)
        left.set_title(name, fontsize=9 if len(name) < 30 else 7, color=colour, loc="left", weight="bold")
    if title:
        figure.text(sides["left"], 1 - 0.15 / high, title, fontsize=11, va="top")
    figure.savefig(path, dpi=120)


def among(
    process: Process,
    times: Times,
    others: Mapping[str, Times],
    path: str | Path,
    *,
    best: str | None = None,
    asked: Float[Array, " calls"] | None = None,
    title: str | None = None,
) -> None:
    """A schedule among others, as in ``draw``: those in grey, the best of them in black.

    Args:
        process: turns times into noise levels.
        times: the schedule.
        others: name to times.
        path: the file to write; its ending says which format (png, pdf, svg).
        best: which of the others to draw in black.
        asked: the times the network is shown, if they are not the schedule's own; drawn as crosses.
        title: above the picture.

    Raises:
        ValueError: ``best`` is none of the others.
        ModuleNotFoundError: matplotlib is not installed.
    """
    if best is not None:
        checks.one_of("best", best, others)
    from matplotlib.figure import Figure

    learned = _levels(process, times)
    levels = {name: _levels(process, other) for name, other in others.items()}
    limits = _limits([learned, *levels.values()])
    figure = Figure(figsize=(8.0, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2.2, 1), sharey=True)
    for name, level in levels.items():
        if name != best:
            _curve(left, level, limits, color="0.8", linewidth=0.8)
    if best is not None:
        _curve(left, levels[best], limits, color="black", linewidth=1.4, marker="o", markersize=4, label=best)
        _density(right, levels[best], limits, "black")
    _curve(left, learned, limits, color=COLOURS[0], linewidth=2.0, marker="o", markersize=5, label="learned")
    _density(right, learned, limits, COLOURS[0])
    if asked is not None:
        steps = np.linspace(0, 1, len(learned))
        each = steps[:-1] if len(asked) == len(learned) - 1 else np.linspace(0, steps[-2], len(asked))
        shown = np.clip(_levels(process, asked), *limits)
        left.plot(each, shown, "x", color="C3", markersize=7, label="what the network is shown", clip_on=False)
    _frame(left, right, limits, first=True, last=True)
    left.set_xlabel("step / steps")
    right.set_xlabel("share of steps")
    left.legend(fontsize=8)
    if title is not None:
        figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=120)


def _panels(schedules: Mapping[str, Times]) -> list[tuple[str, ...]]:
    """Names, those of equal times together."""
    panels: list[tuple[str, ...]] = []
    for name, times in schedules.items():
        for i, names in enumerate(panels):
            other = schedules[names[0]]
            if len(other) == len(times) and np.allclose(times, other, rtol=1e-5, atol=0):
                panels[i] = (*names, name)
                break
        else:
            panels.append((name,))
    return panels


def _levels(process: Process, times: Times) -> Levels:
    """``sigma / alpha``, 0 at the clean end and infinite where there is no signal."""
    with np.errstate(over="ignore"):
        return np.exp(-np.asarray(process.half_log_snr(times), np.float64))


def _limits(levels: list[Levels]) -> tuple[float, float]:
    finite = np.concatenate([level[(level > 0) & np.isfinite(level)] for level in levels])
    usual = finite[(finite > LEVELS[0]) & (finite < LEVELS[1])]
    shown = usual if len(usual) else finite
    return float(shown.min() / 1.6), float(shown.max() * 1.6)


def _curve(axes: Any, level: Levels, limits: tuple[float, float], **style: Any) -> None:
    """Levels outside the picture lie on its edge."""
    axes.plot(np.linspace(0, 1, len(level)), np.clip(level, *limits), clip_on=False, **style)


def _density(axes: Any, level: Levels, limits: tuple[float, float], colour: str) -> None:
    edges = np.clip(level[::-1], *limits)
    widths = np.diff(np.log(edges))
    shown = widths > 0
    share = np.divide(1 / len(widths), widths, out=np.zeros_like(widths), where=shown)
    axes.stairs(share, edges, orientation="horizontal", fill=True, color=colour, alpha=0.35, linewidth=0)
    axes.stairs(share, edges, orientation="horizontal", color=colour, linewidth=0.8, baseline=None)
    axes.set_xlim(0, CROWD / np.log(limits[1] / limits[0]))


def _frame(left: Any, right: Any, limits: tuple[float, float], *, first: bool, last: bool) -> None:
    left.set_yscale("log")
    left.set_ylim(*limits)
    left.set_xlim(0, 1)
    left.set_xticks([0, 0.5, 1], ["0", "", "1"] if last else [])
    left.grid(alpha=0.25, linewidth=0.6)
    left.minorticks_off()
    left.tick_params(labelsize=8, labelleft=first)
    for side in ("top", "right"):
        left.spines[side].set_visible(False)
        right.spines[side].set_visible(False)
    right.spines["bottom"].set_color("0.8")
    right.tick_params(left=False, labelleft=False, bottom=False, labelbottom=False)
    right.minorticks_off()
    if first:
        left.set_ylabel(r"noise level $\sigma / \alpha$", fontsize=8)
    if last:
        left.set_xlabel("fraction of the steps", fontsize=8, labelpad=-6)
        right.set_xlabel("density", fontsize=8, labelpad=8)
