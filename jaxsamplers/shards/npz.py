"""NumPy's: a file a shard, with all its arrays and which samples they are."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxsamplers.shards.plan import Plan

SPAN = "_span"


def check(plan: Plan) -> None:
    """Any array will do."""


def lacking(plan: Plan, number: int, *, whole: bool = False) -> list[Path]:
    """The files of a shard that are not there, cut off, or of other samples; ``whole`` reads them, for check sums."""
    path = _file(plan, number)
    try:
        with path.open("rb") as opened, np.load(opened) as file:
            good = tuple(file[SPAN]) == plan.span(number) and not (whole and file.zip.testzip())
    except (FileNotFoundError, zipfile.BadZipFile, EOFError, KeyError, ValueError):
        good = False
    return [] if good else [path]


def write(plan: Plan, number: int, samples: Mapping[str, np.ndarray]) -> None:
    """One shard, of whose samples there may be more than it has."""
    from jaxsamplers.records.files import replacing

    first, stop = plan.span(number)
    arrays: dict[str, Any] = {name: array[: stop - first] for name, array in samples.items()}
    with replacing(_file(plan, number)) as file:
        np.savez(file, **arrays | {SPAN: np.asarray((first, stop))})


def load(plan: Plan, number: int) -> dict[str, np.ndarray]:
    """One shard; NumPy forgets the names of types that are not its own, such as bfloat16.

    Raises:
        ValueError: it is damaged.
    """
    path = _file(plan, number)
    try:
        with path.open("rb") as opened, np.load(opened) as file:
            return {name: file[name].view(array.dtype) for name, array in plan.arrays.items()}
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}): the call that began it draws it again when repeated") from error


def finish(plan: Plan) -> None:
    """The files are all there is."""


def _file(plan: Plan, number: int) -> Path:
    return plan.out / f"shard-{number:05d}.npz"
