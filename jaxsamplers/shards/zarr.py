"""Zarr, version 3: a folder that ``zarr.open`` opens, an array a name, of which a shard is one chunk.

TensorStore encodes a chunk, with its check sum, in memory; the file is put in place like every other here, complete or
not at all, with no locks that some shared storage has not. A chunk is whole, the last one too: what it has beyond
``count`` is there already when a later call asks for more. That the arrays exist, and how long they are, is written
when all chunks are there, so who opens them finds no sample that has not been drawn.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxsamplers.shards.plan import Array, Plan

SETTINGS, CHECK_SUM = "zarr.json", 4  # what zarr calls its descriptions; bytes after those of the samples


def check(plan: Plan) -> None:
    """What it cannot hold, before the work.

    Raises:
        ModuleNotFoundError: tensorstore is not installed.
        ValueError: a name that is no folder's, or a type or shape that Zarr has not.
    """
    for name, array in plan.arrays.items():
        if not name or "/" in name or name.startswith((".", "__")) or name in {SETTINGS, "shards.json"}:
            raise ValueError(f"format='zarr' makes a folder of each name, which {name!r} cannot be")
        try:
            _chunk(plan, array)
        except ValueError as error:
            raise ValueError(
                f"format='zarr' cannot hold {name!r}, {array.dtype}{list(array.shape)} a sample "
                f"({_reason(error)}): format='npz' can"
            ) from error


def lacking(plan: Plan, number: int, *, whole: bool = False) -> list[Path]:
    """The files of a shard that are not there or cut off; ``whole`` reads them, against their check sums."""
    return [
        path
        for name, array in plan.arrays.items()
        if not _complete(path := _file(plan, name, number), plan, array, whole=whole)
    ]


def write(plan: Plan, number: int, samples: Mapping[str, np.ndarray]) -> None:
    """One shard, of whose samples there may be more than it has."""
    from jaxsamplers.records.files import write_bytes, writing

    for name, array in plan.arrays.items():
        chunk = _chunk(plan, array)
        chunk.write(samples[name][: plan.size]).result()
        path = _file(plan, name, number)
        with writing(path.parent):
            path.parent.mkdir(exist_ok=True)
        write_bytes(path, chunk.kvstore[_key(array, 0)])


def load(plan: Plan, number: int) -> dict[str, np.ndarray]:
    """One shard.

    Raises:
        ModuleNotFoundError: tensorstore is not installed.
        ValueError: it is damaged.
    """
    first, stop = plan.span(number)
    return {name: _read(_file(plan, name, number), plan, array)[: stop - first] for name, array in plan.arrays.items()}


def finish(plan: Plan) -> None:
    """All shards are there: say what they are."""
    from jaxsamplers.records.files import write_text

    described = {}
    for name, array in plan.arrays.items():
        said = json.loads(_chunk(plan, array).kvstore[SETTINGS]) | {"shape": [plan.total, *array.shape]}
        write_text(plan.out / name / SETTINGS, json.dumps(said))
        if array.dtype.isbuiltin == 1:  # the others, such as bfloat16, zarr-python does not read yet
            described[name] = said
    # with the arrays' descriptions inside, zarr-python does not look for them, and does not wonder about shards.json
    inside = {"kind": "inline", "must_understand": False, "metadata": described}
    group = {"zarr_format": 3, "node_type": "group", "attributes": {}, "consolidated_metadata": inside}
    write_text(plan.out / SETTINGS, json.dumps(group))


def _file(plan: Plan, name: str, number: int) -> Path:
    return plan.out / name / _key(plan.arrays[name], number)


def _key(array: Array, number: int) -> str:
    return ".".join(["c", str(number), *("0" for _ in array.shape)])


def _complete(path: Path, plan: Plan, array: Array, *, whole: bool) -> bool:
    try:
        if path.stat().st_size != plan.size * math.prod(array.shape) * array.dtype.itemsize + CHECK_SUM:
            return False
        if whole:
            _read(path, plan, array)
    except (FileNotFoundError, ValueError):
        return False
    return True


def _read(path: Path, plan: Plan, array: Array) -> np.ndarray:
    chunk = _chunk(plan, array)
    chunk.kvstore[_key(array, 0)] = path.read_bytes()
    try:
        return chunk.read().result()
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged ({_reason(error)}): the call that began it draws it again when repeated"
        ) from error


def _chunk(plan: Plan, array: Array) -> Any:
    """A TensorStore of one chunk, in memory. Were a chunk lost, its samples would be no number, where there is one."""
    try:
        import tensorstore
    except ImportError as error:
        raise ModuleNotFoundError(
            "format='zarr' needs tensorstore, which is not installed: pip install 'jaxsamplers[zarr]'",
            name="tensorstore",
        ) from error
    shape = [plan.size, *array.shape]
    metadata = {
        "shape": shape,
        "data_type": array.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shape}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
    }
    if jnp.issubdtype(array.dtype, jnp.floating):
        metadata["fill_value"] = "NaN"
    spec = {"driver": "zarr3", "kvstore": {"driver": "memory"}, "metadata": metadata}
    return tensorstore.open(spec | {"store_data_equal_to_fill_value": True}, create=True).result()


def _reason(error: ValueError) -> str:
    """What TensorStore says, less where in its source."""
    return str(error).split(" [")[0].strip()
