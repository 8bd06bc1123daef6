"""Errors that name the argument, what was given and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np

Value = TypeVar("Value")


def concrete(value: Any) -> np.ndarray | None:
    """``value`` as a NumPy array, or ``None`` while it is being traced and cannot be looked at."""
    return None if isinstance(value, jax.core.Tracer) else np.asarray(value)


def is_zero(value: Any) -> bool:
    """Whether ``value`` is known to be all zeros (a traced value never is)."""
    known = concrete(value)
    return known is not None and not known.any()


def look_up(kind: str, name: str, known: Mapping[str, Value]) -> Value:
    """``known[name]``, or an error that offers the nearest names."""
    one_of(kind, name, known)
    return known[name]


def one_of(argument: str, value: Any, known: Iterable[Any]) -> None:
    """Raise ``ValueError`` unless ``value`` is among ``known``; names the nearest ones."""
    known = list(known)
    if value in known:
        return
    near = difflib.get_close_matches(str(value), [str(k) for k in known], n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise ValueError(f"unknown {argument} {value!r}: {hint}known: {', '.join(map(str, known))}")


def integer(argument: str, value: Any, low: int, high: int | None = None) -> int:
    """``value`` as an int within ``[low, high]``, or ``ValueError``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"{argument} must be an integer, got {value!r}")
    if value < low or (high is not None and value > high):
        allowed = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{argument} must be {allowed}, got {value}")
    return int(value)


def within(argument: str, value: Any, low: float, high: float = np.inf, *, above: bool = False) -> None:
    """Raise ``ValueError`` unless every known entry of ``value`` lies in ``[low, high]`` (``(low, high]``)."""
    known = concrete(value)
    if known is None:
        return
    if known.dtype.kind not in "fiu":
        raise ValueError(f"{argument} must be a number, got {value!r}")
    inside = (known > low if above else known >= low) & (known <= high)
    if not inside.all():  # NaN is not inside
        bound = f"{'above' if above else 'at least'} {low:g}" + (f" and at most {high:g}" if high < np.inf else "")
        raise ValueError(f"{argument} must be {bound}, got {known}")
