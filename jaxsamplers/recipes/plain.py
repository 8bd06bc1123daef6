"""Arrays, processes and their like as plain JSON, and back with every value checked.

A number keeps every bit: Python writes the shortest decimal that reads back as the same float64, and a float32 is one.
Reading builds nothing but arrays and the classes below, whose fields hold numbers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsamplers import laws, processes
from jaxsamplers.discrete import noises, survival
from jaxsamplers.discrete import processes as tokens
from jaxsamplers.discrete.categorical import Categorical

DTYPES = ("float32", "float64", "int32", "int64")
DEPTH = 12  # of a process: no law needs half of it
CLASSES = {
    prefix + name: value
    for prefix, modules in {"": (laws, processes), "discrete.": (survival, noises, tokens)}.items()
    for module in modules
    for name, value in vars(module).items()
    if isinstance(value, type) and dataclasses.is_dataclass(value) and value.__module__ == module.__name__
} | {"discrete.Categorical": Categorical}
KINDS = {value: kind for kind, value in CLASSES.items()}


def array_to_plain(where: str, value: Any) -> dict[str, Any]:
    """``{"dtype": ..., "shape": [...], "values": [...]}``, the values in one list.

    Raises:
        ValueError: a dtype that is not float32, float64, int32 or int64, or a number that is not finite.
    """
    value = np.asarray(value)
    if value.dtype.name not in DTYPES:
        raise ValueError(f"{where} must be of type {', '.join(DTYPES)} to be saved, got {value.dtype.name}")
    if not np.isfinite(value).all():
        raise ValueError(f"{where} must be finite to be saved")
    return {"dtype": value.dtype.name, "shape": list(value.shape), "values": value.ravel().tolist()}


def array_from_plain(where: str, value: Any) -> jax.Array:
    """The inverse; float64 stays float64 where it is enabled.

    Raises:
        ValueError: not what ``array_to_plain`` writes.
    """
    fields(where, value, ("dtype", "shape", "values"))
    dtype, shape, values = value["dtype"], value["shape"], value["values"]
    if dtype not in DTYPES:
        raise ValueError(f"{where}: dtype must be one of {', '.join(DTYPES)}, got {dtype!r:.40}")
    if not isinstance(shape, list) or len(shape) > 16 or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"{where}: shape must be a list of at most 16 sizes, got {shape!r:.60}")
    if not isinstance(values, list) or len(values) != math.prod(shape):
        raise ValueError(f"{where}: a shape of {shape!r:.60} needs as many values, got {_size(values)}")
    kinds = (int,) if dtype.startswith("int") else (int, float)
    if not all(type(v) in kinds for v in values):  # a bool is no number here
        raise ValueError(f"{where}: values must all be numbers of type {dtype}")
    try:
        with np.errstate(over="ignore"):
            numbers = np.asarray(values, dtype).reshape(shape)
    except (OverflowError, ValueError):
        raise ValueError(f"{where}: a value does not fit into {dtype}") from None
    if not np.isfinite(numbers).all():
        raise ValueError(f"{where}: values must be finite")
    return jnp.asarray(numbers)


def to_plain(where: str, value: Any) -> Any:
    """A process, a law, a number, an array, or dicts, lists and tuples of them.

    Raises:
        ValueError: anything else.
    """
    if value is None or type(value) in (int, float):
        if value is not None and not math.isfinite(value):
            raise ValueError(f"{where} must be finite to be saved")
        return value
    if type(value) in KINDS:
        names = [field.name for field in dataclasses.fields(value)]
        return {"kind": KINDS[type(value)]} | {n: to_plain(f"{where}.{n}", getattr(value, n)) for n in names}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"kind": "dict", "items": {k: to_plain(f"{where}[{k!r}]", v) for k, v in value.items()}}
    if type(value) in (list, tuple):
        return {"kind": type(value).__name__, "items": [to_plain(f"{where}[{i}]", v) for i, v in enumerate(value)]}
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return {"kind": "array"} | array_to_plain(where, value)
    raise ValueError(f"{where} is a {type(value).__name__}, which a recipe cannot hold")


def from_plain(where: str, value: Any, depth: int = 0) -> Any:
    """The inverse.

    Raises:
        ValueError: not what ``to_plain`` writes.
    """
    if depth > DEPTH:
        raise ValueError(f"{where}: nested more than {DEPTH} deep")
    if value is None or type(value) is int:
        return value
    if type(value) is float:
        return finite(where, value)
    if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
        raise ValueError(f"{where}: expected a number or an object with a kind, got {value!r:.60}")
    kind, rest = value["kind"], {key: item for key, item in value.items() if key != "kind"}
    if kind == "array":
        return array_from_plain(where, rest)
    if kind in ("list", "tuple", "dict"):
        fields(where, rest, ("items",))
        items = rest["items"]
        if kind == "dict" and isinstance(items, dict):
            return {key: from_plain(f"{where}[{key!r:.40}]", item, depth + 1) for key, item in items.items()}
        if kind == "dict" or not isinstance(items, list):
            raise ValueError(f"{where}: items do not make a {kind}")
        made = [from_plain(f"{where}[{i}]", item, depth + 1) for i, item in enumerate(items)]
        return made if kind == "list" else tuple(made)
    if kind not in CLASSES:
        raise ValueError(f"{where}: unknown kind {kind!r:.40}; known: {', '.join(sorted(CLASSES))}, or a newer version")
    names = [field.name for field in dataclasses.fields(CLASSES[kind])]
    fields(f"{where} ({kind})", rest, names)
    return CLASSES[kind](**{name: from_plain(f"{where}.{name}", rest[name], depth + 1) for name in names})


def json_only(where: str, value: Any, depth: int = 0) -> Any:
    """``value`` itself, tuples as lists, if it is strings, finite numbers, true, false, null, lists and dicts of them.

    Raises:
        ValueError: it is not.
    """
    if depth > 2 * DEPTH:
        raise ValueError(f"{where}: nested more than {2 * DEPTH} deep")
    if value is None or type(value) in (bool, int, str):
        return value
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return finite(where, value)
    if isinstance(value, list | tuple):
        return [json_only(f"{where}[{i}]", item, depth + 1) for i, item in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: json_only(f"{where}[{key!r:.40}]", item, depth + 1) for key, item in value.items()}
    if isinstance(value, jax.Array | np.ndarray):
        return json_only(where, np.asarray(value).tolist(), depth)
    raise ValueError(f"{where} must be plain JSON, got a {type(value).__name__}")


def fields(where: str, value: Any, names: Any) -> None:
    """Raise ``ValueError`` unless ``value`` is an object with exactly these fields."""
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object, got {value!r:.60}")
    missing, extra = [n for n in names if n not in value], [str(k)[:40] for k in value if k not in names]
    if missing or extra:
        what = [f"{', '.join(missing)} missing"] * bool(missing) + [f"{', '.join(extra[:8])} unknown"] * bool(extra)
        raise ValueError(f"{where}: {' and '.join(what)}")


def finite(where: str, value: Any) -> float:
    """A finite number as a float, or ``ValueError``."""
    if type(value) not in (int, float) or not abs(value) <= np.finfo(np.float64).max:  # NaN is not
        raise ValueError(f"{where}: expected a finite number, got {value!r:.60}")
    return float(value)


def _size(values: Any) -> str:
    return f"{len(values)} of them" if isinstance(values, list) else f"{values!r:.40}"
