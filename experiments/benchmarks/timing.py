"""Timing on a machine that does other things too: candidates take turns, and ratios are taken within a round.

A slow minute then falls on all candidates alike, and the median over rounds drops the rounds it did not fall on evenly.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np


@dataclasses.dataclass(frozen=True)
class Timings:
    """Wall seconds a call, one array ``[rounds]`` per candidate."""

    seconds: dict[str, np.ndarray]

    def median(self, name: str) -> float:
        """Median seconds a call."""
        return float(np.median(self.seconds[name]))

    def ratio(self, name: str, reference: str) -> float:
        """How many times as long as ``reference``: the median of the rounds' own ratios."""
        return self._quantile(name, reference, 0.5)

    def spread(self, name: str, reference: str) -> tuple[float, float]:
        """The quartiles of the rounds' ratios: what another run might have reported."""
        return self._quantile(name, reference, 0.25), self._quantile(name, reference, 0.75)

    def _quantile(self, name: str, reference: str, q: float) -> float:
        return float(np.quantile(self.seconds[name] / self.seconds[reference], q))


def interleaved(candidates: Mapping[str, Callable[[], Any]], *, rounds: int, seconds: float = 0.0) -> Timings:
    """Time every candidate once a round, each time from another starting place.

    Args:
        candidates: functions without arguments; their results are waited for.
        rounds: how often each is timed, after one call that is not.
        seconds: how long to repeat a candidate within a round, at least; one call by default.

    Raises:
        ValueError: fewer than one round.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    calls = {}
    for name, candidate in candidates.items():
        jax.block_until_ready(candidate())
        calls[name] = max(1, math.ceil(seconds / _time(candidate, 1))) if seconds else 1
    names = list(candidates)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            taken[name].append(_time(candidates[name], calls[name]))
    return Timings({name: np.array(values) for name, values in taken.items()})


def _time(candidate: Callable[[], Any], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        jax.block_until_ready(candidate())
    return (time.perf_counter() - start) / calls
