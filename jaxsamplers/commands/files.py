"""Files that appear under their names only when all of them are written, and packages asked for in time."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

PICTURES = (".png", ".pdf", ".svg")


def need(*packages: str) -> None:
    """Before the work, not after it."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(name=package)


def check_folder(path: Path) -> None:
    """Whether a file of that name can be written."""
    if not path.parent.is_dir():
        raise ValueError(f"cannot write {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise ValueError(f"cannot write {path}: it is a folder")


def check_pictures(*paths: Path) -> None:
    """Before the work, not after it."""
    for path in paths:
        check_folder(path)
        if path.suffix.lower() not in PICTURES:
            raise ValueError(f"cannot write {path}: a picture's name must end in {', '.join(PICTURES)}")
    if len(set(paths)) < len(paths):
        raise ValueError(f"two pictures cannot both be written to {paths[0]}")


@contextlib.contextmanager
def complete(*paths: Path) -> Iterator[list[Path]]:
    """Names to write under; they become ``paths`` when all is written, and nothing is left when it is not."""
    drafts = [path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}") for path in paths]
    try:
        yield drafts
        for draft, path in zip(drafts, paths, strict=True):
            draft.replace(path)
    finally:
        for draft in drafts:
            draft.unlink(missing_ok=True)
