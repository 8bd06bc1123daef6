"""Restart: a solver of the flow that goes back up by noise, and comes down again, several times.

Where the run reaches ``t_min`` it is taken back to ``t_max``, by as much noise as lies between them, and integrated
down to ``t_min`` once more, ``K`` times. The noise contracts the errors that were gathered above; the steps stay those
of a deterministic solver, which makes few. The way back up is merged into the row before it, see ``renoise.py``.

Source: Xu et al. 2023, Restart sampling (arXiv 2306.14878), algorithm 1 and eq. 4. The authors' code finds the step
nearest to ``t_min`` (two intervals at one step overwrite each other), counts points where its tables say steps, and has
Heun's method inside and out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from jaxsamplers import checks
from jaxsamplers.schedules import validate
from jaxsamplers.solvers.edm import HEUN
from jaxsamplers.solvers.renoise import Solver, lift, renoise
from jaxsamplers.tableau import Tableau, concatenate

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from jaxsamplers.processes import Process

    Times = Float[Array, " m+1"]


def restart(
    process: Process,
    times: Float[Array, " n+1"],
    *,
    intervals: Mapping[int, tuple[Times, int]] | None = None,
    solver: Solver = HEUN,
    noise_scale: float = 1.0,
) -> Tableau:
    """Restart sampling, stochastic; the network calls of ``solver`` on every piece.

    Args:
        process: the noise process.
        times: ``n + 1`` decreasing times of the whole way down.
        intervals: where to go back: from index ``k``, so that ``t_min = times[k]``, to the decreasing times of the way
            down from ``t_max`` to ``t_min``, and how often (``K``). For example ``{12: (schedules.karras(process, 3,
            t_start=1.0, t_end=times[12]), 2)}``. Without it, once, in the middle, over the last step in two halves.
        solver: what makes every piece; any that takes ``lower_order_final=``, true for the piece that ends the run.
        noise_scale: a factor on the noise.

    Raises:
        ValueError: an index outside ``1 .. n``, ``K`` below 1, a way down that is no schedule, that does not end at
            ``times[k]``; a negative ``noise_scale``.
    """
    checks.within("noise_scale", noise_scale, 0.0)
    times = validate(process, times)
    last = len(times) - 1
    if intervals is None:
        middle = (last + 1) // 2
        high, low = times[middle - 1], times[middle]
        intervals = {middle: (jnp.stack([high, (high + low) / 2, low]), 1)}
    if not isinstance(intervals, Mapping):
        raise ValueError(f"intervals must map an index to (times of the way down, how often), got {intervals!r}")

    def piece(times: Times, up: Array | None) -> Tableau:
        """The way along ``times``, and by noise up to the time ``up``; the end of the run if that is ``None``."""
        way = solver(process, times, lower_order_final=up is None)
        if up is None:
            return way
        given_up = process.half_log_snr(times[-1]) - process.half_log_snr(up)
        return renoise(way, *lift(process, times[-1], up, given_up, noise_scale))

    tables, begin = [], 0
    for k, (down, repeats) in sorted(intervals.items()):
        checks.integer("the index of an interval", k, low=1, high=last)
        checks.integer("the repeats of an interval", repeats, low=1)
        down = validate(process, down)
        here, end = checks.concrete(times[k]), checks.concrete(down[-1])
        if here is not None and end is not None and not np.isclose(here, end, rtol=1e-5):
            raise ValueError(f"the interval at {k} must end at times[{k}], which is {here:g}, but ends at {end:g}")
        again = [piece(down, down[0])] * (repeats - 1) if repeats > 1 else []
        tables += [piece(times[begin : k + 1], down[0]), *again, piece(down, None if k == last else times[k])]
        begin = k
    if begin < last:
        tables.append(piece(times[begin:], None))
    return concatenate(*tables)
