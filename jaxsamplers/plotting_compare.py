"""Error against network calls for many solvers, in one picture that can still be read at forty of them.

A legend of forty colours cannot be. Solvers are drawn a few to a panel, families together, in colours that stay apart
for colour-blind eyes, over all the others in grey: every panel has the same axes, so a curve is judged against its
family by colour and against everything by its place among the grey ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float

    Curve = tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]

PER_PANEL = 5
ALONE = 8  # up to this many solvers share a single panel
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c6d46")
MARKERS = "os^Dv<>P"
HEADROOM = 10.0  # errors above this multiple of the typical one at the fewest calls leave the picture


def compare(
    results: Mapping[str, Sequence[tuple[float, float]]],
    path: str | Path,
    *,
    families: Mapping[str, str] | None = None,
    title: str | None = None,
) -> None:
    """Error against network calls on logarithmic axes, the best solvers of a panel named first.

    Args:
        results: name to ``(calls, error)`` points; errors that are not positive and finite are left out.
        path: the file to write; its ending says which format (png, pdf, svg).
        families: name to family, whose members are drawn in one panel where they fit; each solver alone by default.
        title: above the picture.

    Raises:
        ValueError: nothing to draw.
        ModuleNotFoundError: matplotlib is not installed.
    """
    curves = {name: curve for name, points in results.items() if len((curve := _curve(points))[0])}
    if not curves:
        raise ValueError("there is nothing to draw: no solver has a finite error")
    from matplotlib.figure import Figure

    panels = _panels(list(curves), families or {})
    columns = 2 if len(panels) == 4 else min(len(panels), 3 if len(panels) <= 9 else 4)
    lines = -(-len(panels) // columns)
    size = (7.5, 5.0) if len(panels) == 1 else (4.2 * columns, 3.4 * lines)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    fewest = np.median([calls[0] for calls, _ in curves.values()])  # a method of long steps makes fewer than it may
    most = max(calls[-1] for calls, _ in curves.values())
    grid[0, 0].set(xscale="log", xlim=(fewest / 1.35, most * 1.15))
    for number, axes in enumerate(grid.flat):
        if number < len(panels):
            _panel(axes, curves, panels[number])
        else:
            axes.set_visible(False)
        if number + columns >= len(panels):  # nothing below it
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("network calls")
    grid[0, 0].set_ylim(*_limits(list(curves.values())))
    for axes in grid[:, 0]:
        axes.set_ylabel("median distance to the exact solution" if lines == 1 else "median error")
    if title:
        figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=120)


def _curve(points: Sequence[tuple[float, float]]) -> Curve:
    """The points that have a place on logarithmic axes, by increasing calls."""
    known = np.array(sorted(points), float).reshape(-1, 2)
    known = known[np.isfinite(known).all(axis=1) & (known > 0).all(axis=1)]
    return known[:, 0], known[:, 1]


def _panels(names: Sequence[str], families: Mapping[str, str]) -> list[list[str]]:
    """Names packed into panels; a family is split only when it is larger than one."""
    if len(names) <= ALONE:
        return [list(names)]
    members: dict[str, list[str]] = {}
    for name in names:
        members.setdefault(families.get(name, name), []).append(name)
    panels: list[list[str]] = []
    for family in members.values():
        count = -(-len(family) // PER_PANEL)
        for part in (family[i::count] for i in range(count)):
            room = next((panel for panel in panels if len(panel) + len(part) <= PER_PANEL), None)
            if room is None:
                panels.append(list(part))
            else:
                room.extend(part)
    return panels


def _panel(axes: Any, curves: Mapping[str, Curve], names: Sequence[str]) -> None:
    for name, (calls, error) in curves.items():
        if name not in names:
            axes.loglog(calls, error, color="0.85", linewidth=0.8, zorder=1)
    best_first = sorted(names, key=lambda name: curves[name][1][-1])
    for i, name in enumerate(best_first):
        calls, error = curves[name]
        style = "-" if i % 2 == 0 else (0, (3, 1.5))  # two equal curves lie side by side in this order: both are seen
        axes.loglog(
            calls, error, linestyle=style, color=COLOURS[i], marker=MARKERS[i], markersize=4.5, label=name, zorder=3
        )
    left = axes.get_xlim()[0]
    ticks = _ticks([float(c) for calls, _ in curves.values() for c in calls if c >= left])
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.legend(loc="lower left", fontsize=8, framealpha=0.85, edgecolor="none", borderpad=0.3, labelspacing=0.3)


def _ticks(calls: Sequence[float]) -> list[float]:
    """Numbers of calls to label, the commonest first, as long as there is room."""
    ticks: list[float] = []
    for tick in sorted(set(calls), key=lambda tick: (-calls.count(tick), -tick)):
        if all(max(tick / other, other / tick) > 1.2 for other in ticks):
            ticks.append(tick)
    return sorted(ticks)


def _limits(curves: Sequence[Curve]) -> tuple[float, float]:
    """All errors, except those of a solver that blows up."""
    low = min(error.min() for _, error in curves)
    high = max(error.max() for _, error in curves)
    typical = float(np.median([error[0] for _, error in curves]))
    return low / 1.5, max(min(high, HEADROOM * typical), low) * 1.5
