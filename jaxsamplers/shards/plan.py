"""What is to be written: so many samples, so many a shard, of these shapes and types."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ONLY = "samples"  # the name of an array that has none


class Array(NamedTuple):
    """The shape and type of one sample."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class Plan(NamedTuple):
    """Samples 0 to ``total - 1`` in shards of ``size``, of which the last may be smaller."""

    out: Path
    total: int
    size: int
    arrays: dict[str, Array]

    def span(self, number: int) -> tuple[int, int]:
        """The first sample of a shard, and the first that is not in it any more."""
        return number * self.size, min((number + 1) * self.size, self.total)

    @property
    def shards(self) -> range:
        """Their numbers."""
        return range(-(-self.total // self.size))


def planned(out: Path, settings: Mapping[str, Any]) -> Plan:
    """From what ``shards.json`` says."""
    said = settings["samples"]
    named = said if isinstance(said, dict) else {ONLY: said}
    return Plan(out, settings["count"], settings["size"], {name: _array(text) for name, text in named.items()})


def _array(text: str) -> Array:
    """From ``float32[32, 32, 3]``."""
    dtype, _, shape = text.partition("[")
    return Array(tuple(json.loads(f"[{shape}")), np.dtype(dtype))
