"""Settings of a study: frozen dataclasses in a Python file, overridden by ``section.name=value``.

A file in ``configs/`` has one function ``get_config()`` that returns a frozen dataclass, possibly nested. The command
line changes single fields (``override``), each value parsed as a Python literal and checked against the
field's annotation, and what is run in the end is written as JSON beside the results (``write``), so that "what was
different?" is a question for ``differences``.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import json
import runpy
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from jaxsamplers.records.files import write_text

Settings = TypeVar("Settings")


def load(path: str | Path) -> Any:
    """The settings that the Python file's ``get_config()`` returns.

    Raises:
        FileNotFoundError: no such file; names the nearest ones beside it.
        ValueError: a file without ``get_config``, or one that returns something other than a frozen dataclass.
    """
    path = Path(path)
    if not path.is_file():
        present = [str(other) for other in sorted(path.parent.glob("*.py"))]
        raise FileNotFoundError(f"there is no settings file {path}{_nearest(str(path), present)}")
    get_config = runpy.run_path(str(path)).get("get_config")
    if not callable(get_config):
        raise ValueError(f"{path} must define a function get_config() that returns the settings")
    settings = get_config()
    if not dataclasses.is_dataclass(settings) or isinstance(settings, type):
        raise ValueError(f"get_config() in {path} must return a frozen dataclass, got {type(settings).__name__}")
    return settings


def override(settings: Settings, assignments: Sequence[str]) -> Settings:
    """The settings after assignments such as ``train.steps=500``.

    Args:
        settings: a frozen dataclass, possibly nested.
        assignments: ``section.name=value``, all applied together; of two to the same name the later wins. Values are
            Python literals; a string needs no quotes.

    Raises:
        ValueError: an unknown name (the nearest known one is offered), a value of another type than the field's, or one
            that the settings themselves refuse.
    """
    changes: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(f"an override looks like section.name=value, got {assignment!r}")
        name = name.strip()
        changes[name] = _parse(name, text.strip(), _kind(settings, name))
    return _replace(settings, changes)


def to_json(settings: Any) -> dict[str, Any]:
    """The settings as plain nested dictionaries, just as they come back from the JSON file."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def write(settings: Any, path: str | Path) -> None:
    """Write the settings as JSON; the file is complete or absent."""
    write_text(path, json.dumps(to_json(settings), indent=2) + "\n")


def differences(settings: Any, path: str | Path, ignore: Sequence[str] = ()) -> list[str]:
    """How the settings differ from those written at ``path``: one line a field, names in ``ignore`` left out."""
    before, now = _flat(json.loads(Path(path).read_text())), _flat(to_json(settings))
    names = [name for name in {**before, **now} if name not in ignore]
    missing = "(absent)"
    return [
        f"{name}: {before.get(name, missing)} before, {now.get(name, missing)} now"
        for name in names
        if before.get(name, missing) != now.get(name, missing)
    ]


def _kind(settings: Any, name: str) -> Any:
    """The annotation of the field that a dotted name leads to."""
    section, kind = settings, None
    parts = name.split(".")
    for depth, part in enumerate(parts):
        if not dataclasses.is_dataclass(section):
            before = ".".join(parts[:depth])
            raise ValueError(f"there is no setting {name!r}: {before} is a single setting, not a section")
        kinds = typing.get_type_hints(type(section))
        if part not in kinds:
            known = list(_names(settings))
            raise ValueError(f"there is no setting {name!r}{_nearest(name, known)}; known: {', '.join(known)}")
        section, kind = getattr(section, part), kinds[part]
    if dataclasses.is_dataclass(section):
        inside = ", ".join(f"{name}.{field.name}" for field in dataclasses.fields(section))
        raise ValueError(f"{name} is a section, not a single setting: set one of {inside}")
    return kind


def _replace(section: Any, changes: dict[str, Any]) -> Any:
    """All changes at once, so that settings which must fit each other can change together."""
    direct = {name: value for name, value in changes.items() if "." not in name}
    for first in {name.split(".")[0] for name in changes} - set(direct):
        inner = {
            name.removeprefix(f"{first}."): value for name, value in changes.items() if name.startswith(f"{first}.")
        }
        direct[first] = _replace(getattr(section, first), inner)
    return dataclasses.replace(section, **direct)


def _parse(name: str, text: str, kind: Any) -> Any:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if kind is str and not isinstance(value, str):
        value = text
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not _fits(value, kind):
        wanted = kind.__name__ if isinstance(kind, type) else str(kind)
        raise ValueError(f"{name} must be of type {wanted}, got {text!r}")
    return value


def _fits(value: Any, kind: Any) -> bool:
    """Whether ``value`` is what the annotation ``kind`` says: plain types, unions and ``tuple[kind, ...]``."""
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, member) for member in inside)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        expected = [inside[0]] * len(value) if inside[-1] is Ellipsis else inside
        return len(value) == len(expected) and all(map(_fits, value, expected))
    if kind is None:
        return value is None
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _names(section: Any, prefix: str = "") -> Iterator[str]:
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            yield from _names(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _nearest(name: str, known: Sequence[str]) -> str:
    """Compare whole names first, then last parts: ``train.stps`` and ``steps`` both find ``train.steps``."""
    last = {other.rsplit(".", 1)[-1]: other for other in known}
    near = difflib.get_close_matches(name, known, n=1)
    near = near or [last[part] for part in difflib.get_close_matches(name.rsplit(".", 1)[-1], list(last), n=1)]
    return f": did you mean {near[0]}?" if near else ""
