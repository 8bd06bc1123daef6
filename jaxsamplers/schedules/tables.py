"""Schedules that pick entries of a network's table of training times, as pipelines for 1000 discrete steps do.

Entry ``i`` of a table of ``T`` lies at the fraction ``(i + 1) / T`` of the way from ``t_end`` to ``t_start``, whatever
the process. With ``t_end=0`` these are the times of ``processes.from_betas`` with ``T`` betas and of a rectified flow
trained at ``T`` levels: a published schedule, to the last step that removes all noise. Where an index is not whole, the
published code interpolates ``log sigma`` between entries, we the time.

``leading`` and ``ddim_uniform`` never visit the end of the table and so start below ``t_start``; draw the prior there,
``process.prior(key, shape, t=times[0])``. A network trained on noise up to the end makes grey images with them, the
flaw that ``trailing`` repairs (Lin et al. 2023, arXiv 2305.08891).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from jaxsamplers import checks
from jaxsamplers.schedules.grid import ends, validate

if TYPE_CHECKING:
    from jaxsamplers.processes import Process
    from jaxsamplers.schedules.grid import Times


def linspace(
    process: Process,
    steps: int,
    *,
    t_start: float | None = None,
    t_end: float | None = None,
    table_steps: int = 1000,
) -> Times:
    """Table entries ``round((T - 1) (1 - k / (N - 1)))`` and the end: the first entry and the last are visited.

    Source: diffusers' ``timestep_spacing="linspace"`` for DDIM; its Euler does not round, as ``normal``, and its
    DPM-Solver++ rounds ``sgm_uniform``. One step starts at the top; diffusers' starts at the bottom.
    """
    return _entries(process, t_start, t_end, np.round(_equal(steps, table_steps)), table_steps)


def leading(
    process: Process,
    steps: int,
    *,
    t_start: float | None = None,
    t_end: float | None = None,
    table_steps: int = 1000,
    offset: int = 0,
) -> Times:
    """Table entries ``(N - 1 - k) floor(T / N) + offset`` and the end, which start below the top of the table.

    Raises:
        ValueError: an offset beyond the table.

    Source: diffusers' ``timestep_spacing="leading"`` with ``steps_offset``, which Stable Diffusion sets to 1.
    """
    _limited(steps, table_steps)
    checks.integer("offset", offset, low=0)
    entries = np.arange(steps)[::-1] * (table_steps // steps) + offset
    if entries[0] >= table_steps:
        raise ValueError(f"{steps} steps with offset {offset} begin at entry {entries[0]} of a table of {table_steps}")
    return _entries(process, t_start, t_end, entries, table_steps)


def ddim_uniform(
    process: Process,
    steps: int,
    *,
    t_start: float | None = None,
    t_end: float | None = None,
    table_steps: int = 1000,
) -> Times:
    """Table entries ``(N - 1 - k) floor(T / N) + 1`` and the end: ``leading`` with ``offset=1``.

    Source: the DDIM sampler of latent diffusion (Rombach et al. 2022, arXiv 2112.10752) and ComfyUI, which give more
    steps than were asked for where ``N`` does not divide ``T``; here there are always ``steps``.
    """
    return leading(process, steps, t_start=t_start, t_end=t_end, table_steps=table_steps, offset=1)


def trailing(
    process: Process,
    steps: int,
    *,
    t_start: float | None = None,
    t_end: float | None = None,
    table_steps: int = 1000,
) -> Times:
    """Table entries ``round(T (1 - k / N)) - 1`` and the end, which start at the top of the table.

    Source: Lin et al. 2023, Common diffusion noise schedules and sample steps are flawed (arXiv 2305.08891), table 2.
    """
    _limited(steps, table_steps)
    entries = np.round(table_steps * np.arange(steps, 0, -1) / steps) - 1
    return _entries(process, t_start, t_end, entries, table_steps)


def simple(
    process: Process,
    steps: int,
    *,
    t_start: float | None = None,
    t_end: float | None = None,
    table_steps: int = 1000,
) -> Times:
    """Table entries ``T - 1 - floor(k T / N)`` and the end: ``trailing`` rounded up. Source: ComfyUI, ``simple``."""
    _limited(steps, table_steps)
    return _entries(process, t_start, t_end, table_steps - 1 - np.arange(steps) * table_steps // steps, table_steps)


def normal(
    process: Process,
    steps: int,
    *,
    t_start: float | None = None,
    t_end: float | None = None,
    table_steps: int = 1000,
) -> Times:
    """Equal steps in the index from the last entry to the first, ``(T - 1) (1 - k / (N - 1))``, and the end.

    Source: k-diffusion's ``DiscreteSchedule.get_sigmas``; ComfyUI, ``normal``; A1111's default; diffusers' Euler with
    ``timestep_spacing="linspace"``.
    """
    return _entries(process, t_start, t_end, _equal(steps, table_steps), table_steps)


def sgm_uniform(
    process: Process,
    steps: int,
    *,
    t_start: float | None = None,
    t_end: float | None = None,
    table_steps: int = 1000,
) -> Times:
    """Equal steps in the index that would reach the first entry next, ``(T - 1) (1 - k / N)``, and the end.

    Source: Stability AI's generative-models; ComfyUI, ``sgm_uniform``.
    """
    return _entries(process, t_start, t_end, _equal(steps + 1, table_steps)[:-1], table_steps)


def _equal(points: int, table_steps: int) -> np.ndarray:
    checks.integer("steps", points, low=1)
    checks.integer("table_steps", table_steps, low=2)
    return (table_steps - 1) * (1 - np.arange(points) / max(points - 1, 1))


def _limited(steps: int, table_steps: int) -> None:
    checks.integer("steps", steps, low=1)
    checks.integer("steps", steps, low=1, high=checks.integer("table_steps", table_steps, low=1))


def _entries(
    process: Process, t_start: float | None, t_end: float | None, indices: np.ndarray, table_steps: int
) -> Times:
    """The times of these entries, decreasing, and the end."""
    start, end = ends(process, t_start, t_end)
    fraction = jnp.asarray((indices + 1) / table_steps, start.dtype)
    return validate(process, jnp.append(fraction * start + (1 - fraction) * end, end))
