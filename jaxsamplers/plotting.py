"""Pictures of small images and of curves, written straight to files.

matplotlib is imported when a function is called, and without its global state: no window, no current figure, no backend
to be chosen.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxsamplers import checks

if TYPE_CHECKING:
    from jaxtyping import Array, Float

INCH_PER_IMAGE = 0.6
GAP = 1  # pixels between images


def sheet(images: Float[Array, "n h w 1"], path: str | Path, columns: int = 8, title: str | None = None) -> None:
    """A sheet of images, row by row.

    Args:
        images: ``[n, height, width, 1]`` in [-1, 1], black to white; values outside are shown as the nearest end.
        path: the file to write; its ending says which format (png, pdf, svg).
        columns: images in a row.
        title: above the sheet.

    Raises:
        ValueError: images of another shape, none at all, or not finite.
        ModuleNotFoundError: matplotlib is not installed.
    """
    shown = _images(images)
    columns = min(checks.integer("columns", columns, low=1), len(shown))
    _save([shown[i : i + columns] for i in range(0, len(shown), columns)], path, title=title)


def trajectory(
    images: Float[Array, "n h w 1"], times: Float[Array, " n"], path: str | Path, title: str | None = None
) -> None:
    """One image on its way from noise to data, the time under every frame.

    Args:
        images: ``[steps + 1, height, width, 1]``, shown between -1 and 1.
        times: the ``steps + 1`` times they belong to.
        path: the file to write.
        title: above the row.

    Raises:
        ValueError: as many times as images are wanted; images of another shape, or not finite.
        ModuleNotFoundError: matplotlib is not installed.
    """
    shown, marks = _images(images), np.asarray(times)
    if marks.shape != (len(shown),):
        raise ValueError(f"there must be one time an image: {len(shown)} images, times of shape {marks.shape}")
    _save([shown], path, labels=[f"{t:.2g}" for t in marks], title=title)


def points(
    clouds: Mapping[str, Float[Array, "n D"]], path: str | Path, *, title: str | None = None, columns: int = 4
) -> None:
    """Samples as points in their first two coordinates, a panel for each set, all on the same axes.

    Args:
        clouds: name to samples, of two coordinates or more; the first set lies behind the others in grey.
        path: the file to write.
        title: above the picture.
        columns: panels in a row.

    Raises:
        ValueError: no samples, or of fewer coordinates.
        ModuleNotFoundError: matplotlib is not installed.
    """
    shown = {name: np.asarray(cloud) for name, cloud in clouds.items()}
    for name, cloud in shown.items():
        if cloud.ndim != 2 or cloud.shape[1] < 2:
            raise ValueError(f"samples must have shape [n, D] with D > 1, but those of {name!r} have {cloud.shape}")
    if not shown:
        raise ValueError("there are no samples to draw")
    columns = min(checks.integer("columns", columns, low=1), len(shown))
    rows = -(-len(shown) // columns)
    figure = _figure(3.0 * columns, 3.2 * rows)
    figure.set_layout_engine("constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    first = next(iter(shown.values()))
    for panel, (name, cloud) in zip(panels, shown.items(), strict=False):
        panel.plot(first[:, 0], first[:, 1], ".", color="0.75", markersize=3)
        panel.plot(cloud[:, 0], cloud[:, 1], ".", color="C0", markersize=3)
        panel.set_title(name, fontsize=9)
        panel.set_aspect("equal")
    for panel in panels[len(shown) :]:
        panel.set_axis_off()
    if title is not None:
        figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=120)


def curves(
    x: Sequence[float],
    lines: Mapping[str, Sequence[float]],
    path: str | Path,
    *,
    label: str = "step",
    logarithmic: Collection[str] = (),
    levels: Mapping[str, float] | None = None,
) -> None:
    """Curves over a common axis, one panel below the other because their units differ.

    Args:
        x: the common axis.
        lines: name to values, one panel each.
        path: the file to write.
        label: name of the common axis.
        logarithmic: the names of lines to show on a logarithmic axis; values that are not positive leave a gap there.
        levels: name to a value worth comparing with, drawn as a dashed line in the panel of that name.

    Raises:
        ValueError: nothing to draw, or a line of another length than ``x``.
        ModuleNotFoundError: matplotlib is not installed.
    """
    if not lines:
        raise ValueError("there is no curve to draw")
    for name, values in lines.items():
        if len(values) != len(x):
            raise ValueError(f"the curve {name!r} has {len(values)} values for {len(x)} points")
    figure = _figure(7.0, 2.4 * len(lines))
    figure.set_layout_engine("constrained")
    panels = figure.subplots(len(lines), 1, sharex=True, squeeze=False)[:, 0]
    for panel, (name, values) in zip(panels, lines.items(), strict=True):
        known = np.asarray(values, float)
        if name in logarithmic and (known > 0).any():
            panel.set_yscale("log")
            known = np.where(known > 0, known, np.nan)
        panel.plot(x, known, marker=".", markersize=3)
        if levels and name in levels:
            panel.axhline(levels[name], color="grey", linestyle="--", linewidth=1)
        panel.set_ylabel(name)
        panel.grid(alpha=0.3)
    panels[-1].set_xlabel(label)
    figure.savefig(path, dpi=120)


def _images(images: Float[Array, "n h w 1"]) -> np.ndarray:
    known = np.asarray(images, np.float32)
    if known.ndim != 4 or known.shape[-1] != 1 or not len(known):
        raise ValueError(f"images must have shape [n, height, width, 1] with n > 0, got {known.shape}")
    if not np.isfinite(known).all():
        raise ValueError("images must be finite, but some hold NaN or infinity")
    return known[..., 0]


def _save(
    rows: Sequence[np.ndarray], path: str | Path, *, labels: Sequence[str] = (), title: str | None = None
) -> None:
    """One mosaic in one set of axes: drawing a hundred of them would take seconds."""
    height, width = rows[0].shape[1:]
    columns = len(rows[0])
    mosaic = np.full((len(rows) * (height + GAP) - GAP, columns * (width + GAP) - GAP), np.nan, np.float32)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            top, left = i * (height + GAP), j * (width + GAP)
            mosaic[top : top + height, left : left + width] = image
    inch = INCH_PER_IMAGE / (width + GAP)
    head, foot = 0.35 if title else 0.05, 0.25 if labels else 0.05
    wide, high = mosaic.shape[1] * inch + 0.1, mosaic.shape[0] * inch + head + foot
    figure = _figure(wide, high)
    axes = figure.add_axes((0.05 / wide, foot / high, 1 - 0.1 / wide, 1 - (head + foot) / high))
    axes.set_axis_off()
    axes.imshow(mosaic, cmap="gray", vmin=-1, vmax=1, interpolation="nearest", aspect="auto")
    for j, label in enumerate(labels):
        axes.text(j * (width + GAP) + width / 2 - 0.5, mosaic.shape[0], label, ha="center", va="top", fontsize=7)
    if title:
        figure.text(0.5, 1 - 0.1 / high, title, ha="center", va="top", fontsize=9)
    figure.savefig(path, dpi=120)


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))
