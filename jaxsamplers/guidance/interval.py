"""Guidance in an interval of noise levels: ``w`` inside, 1 outside.

At high noise guidance narrows what can come out, at low noise it does hardly anything: between them it helps. Levels
are ``rho = sigma / alpha``, EDM's sigma, whatever the process; the interval is ``low < rho <= high``.

Source: Kynkaanniemi et al. 2024, Applying guidance in a limited interval (arXiv 2404.07724), sec. 3.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsamplers import checks
from jaxsamplers.core import Model
from jaxsamplers.guidance.guided import Guided, unguided
from jaxsamplers.tableau import Tableau

if TYPE_CHECKING:
    from jaxtyping import Array

    from jaxsamplers.processes import Process


def interval(guided: Guided, process: Process, *, low: float = 0.0, high: float = np.inf) -> Guided:
    """The same guidance, with scale 1 outside ``low < sigma / alpha <= high``; every row still makes both calls.

    Args:
        guided: what to limit.
        process: the noise process.
        low: noise level below which there is no guidance.
        high: noise level above which there is none.

    Raises:
        ValueError: a negative level, or ``low`` not below ``high``.
    """
    _check(low, high)
    return dataclasses.replace(guided, scale=_Window(guided.scale, process, low, high))


def interval_parts(
    sampler: Tableau, guided: Guided, process: Process, *, low: float = 0.0, high: float = np.inf
) -> list[tuple[Tableau, Model]]:
    """Parts of a sampler for ``js.stitch``: rows outside the interval call the wanted branch alone.

    The same numbers as ``interval`` for half the work outside; the network is compiled once a part.

    Args:
        sampler: any table with known times.
        guided: what guides inside.
        process: the noise process.
        low: as in ``interval``.
        high: as in ``interval``.

    Raises:
        ValueError: times that are being traced, or limits that ``interval`` refuses.
    """
    _check(low, high)
    times = checks.concrete(sampler.rows.time)
    if times is None:
        raise ValueError("interval_parts splits a sampler by its times and needs to know them: call it outside jit")
    inside = np.asarray(_inside(process, jnp.asarray(times), low, high))
    cuts = [0, *(np.flatnonzero(inside[1:] != inside[:-1]) + 1), len(inside)]
    return [(sampler[a:b], guided if inside[a] else unguided(guided)) for a, b in itertools.pairwise(cuts)]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Window:
    scale: Callable[..., Any]
    process: Process
    low: float
    high: float

    def __call__(self, t: Array, given: Array | None) -> Array:
        return jnp.where(_inside(self.process, t, self.low, self.high), self.scale(t, given), 1.0)


def _inside(process: Process, t: Array, low: float, high: float) -> Array:
    level = jnp.exp(-process.half_log_snr(t))
    return (level > low) & (level <= high)


def _check(low: float, high: float) -> None:
    checks.within("low", low, 0.0)
    checks.within("high", high, 0.0, above=True)
    if checks.concrete(low) is not None and checks.concrete(high) is not None and not low < high:
        raise ValueError(f"low must be below high, got low={low} and high={high}")
