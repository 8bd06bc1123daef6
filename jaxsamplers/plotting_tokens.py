"""Likelihood, entropy and distance of sampled tokens against network calls, side by side: none says enough alone.

Samplers are drawn a few to a row of panels, families together, over all the others in grey; every row has the same
axes, which leave out what is far off, and the legend stands beside its row. Dashed lines are the true law's
own values, dotted ones what as many exact samples show.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxsamplers.plotting_compare import COLOURS, MARKERS, PER_PANEL

if TYPE_CHECKING:
    Points = Sequence[Mapping[str, float]]

FAR = 4.0
TICKS = [digit * 10.0**power for power in range(-5, 2) for digit in (1, 2, 5)]


def draw(
    curves: Mapping[str, Points],
    path: str | Path,
    *,
    panels: Mapping[str, str],
    true: Mapping[str, float],
    floor: Mapping[str, float],
    logarithmic: Sequence[str] = ("kl",),
    families: Mapping[str, str] | None = None,
    title: str | None = None,
) -> None:
    """A row of panels for each few samplers.

    Args:
        curves: name to points, each with "calls" and the panels' quantities.
        path: the file to write; its ending says which format (png, pdf, svg).
        panels: quantity to the label of its axis.
        true: the law's own values, where they have a place.
        floor: those of as many exact samples.
        logarithmic: quantities whose axis is.
        families: name to family, which are drawn together where they fit.
        title: above the picture.

    Raises:
        ValueError: nothing to draw.
        ModuleNotFoundError: matplotlib is not installed.
    """
    if not any(curves.values()):
        raise ValueError("there is nothing to draw: no sampler has a point")
    from matplotlib.figure import Figure

    known = families or {}
    names = sorted((n for n, points in curves.items() if points), key=lambda name: known.get(name, name))
    rows = [names[i : i + PER_PANEL] for i in range(0, len(names), PER_PANEL)]
    high = 2.5 * len(rows) + 0.9
    figure = Figure(figsize=(3.6 * len(panels) + 2.0, high), layout="constrained")
    grid = figure.subplots(len(rows), len(panels), sharex=True, sharey="col", squeeze=False)
    for row, axes_row in zip(rows, grid, strict=True):
        for (key, label), axes in zip(panels.items(), axes_row, strict=True):
            _panel(axes, curves, row, key, true.get(key), floor.get(key))
            axes.set_ylabel(label, fontsize=9)
        found = [axes.get_legend_handles_labels() for axes in axes_row]
        entries = {name: handle for handles, labels in found for handle, name in zip(handles, labels, strict=True)}
        axes_row[-1].legend(
            entries.values(), entries.keys(), loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=8, frameon=False
        )
    ticks = sorted({round(point["calls"]) for name in names for point in curves[name]})
    shown = [tick for i, tick in enumerate(ticks) if i + 1 == len(ticks) or ticks[i + 1] / tick > 1.2]
    for (key, _), column in zip(panels.items(), grid.T, strict=True):
        column[0].set_xscale("log")
        values = [[point[key] for point in curves[name] if key in point] for name in names]
        _limits(column[0], values, [line[key] for line in (true, floor) if key in line], key in logarithmic)
        for axes in column:
            axes.set_xticks(shown, [str(tick) for tick in shown])
            axes.xaxis.minorticks_off()
        column[-1].set_xlabel("network calls")
    if title:
        figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=110)


def _panel(
    axes: Any, curves: Mapping[str, Points], row: Sequence[str], key: str, true: float | None, floor: float | None
) -> None:
    for name, points in curves.items():
        if name not in row:
            axes.plot(*_curve(points, key), color="0.85", linewidth=0.8, marker="o", markersize=1.5, zorder=1)
    for i, name in enumerate(row):
        style = "-" if i % 2 == 0 else (0, (3, 1.5))  # two equal curves lie side by side: both are seen
        label = name.replace("_", " ")
        axes.plot(
            *_curve(points=curves[name], key=key), linestyle=style, color=COLOURS[i], marker=MARKERS[i], markersize=4.5,
            label=label, zorder=3,
        )  # fmt: skip
    if true is not None:
        axes.axhline(true, color="black", linestyle="--", linewidth=0.9, zorder=2, label="true law")
    if floor is not None:
        axes.axhline(floor, color="black", linestyle=":", linewidth=0.9, zorder=2, label="exact samples")
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.tick_params(labelsize=8)


def _limits(axes: Any, values: Sequence[Sequence[float]], lines: Sequence[float], logarithmic: bool) -> None:
    """Everything but samplers that are ``FAR`` times as far off as they usually are at the fewest calls."""
    goal = lines[0] if lines else 0.0
    usual = FAR * float(np.median([abs(of[0] - goal) for of in values if of]))
    near = [v for of in values for v in of if abs(v - goal) <= usual and (v > 0 or not logarithmic)]
    near += [line for line in lines if line > 0 or not logarithmic]
    low, high = min(near), max(near)
    if logarithmic:
        axes.set(yscale="log", ylim=(low / 1.3, high * 1.3))
        ticks = [tick for tick in TICKS if low / 1.3 <= tick <= high * 1.3]
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.yaxis.minorticks_off()
    else:
        room = 0.06 * (high - low) or 0.5
        axes.set_ylim(low - room, high + room)


def _curve(points: Points, key: str) -> tuple[np.ndarray, np.ndarray]:
    known = sorted((point["calls"], point[key]) for point in points if key in point)
    return np.array([calls for calls, _ in known]), np.array([value for _, value in known])
