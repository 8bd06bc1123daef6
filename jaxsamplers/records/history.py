"""The history of a run: one JSON object a line, appended as it goes, cut back when the run resumes.

A run writes a line *before* it saves the checkpoint of the same step. So whatever moment it is killed at, the file
reaches at least as far as the last checkpoint; ``cut`` drops what lies beyond (a half-written last line included),
and the resumed run writes those lines again: the file ends up as if nothing had happened.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from jaxsamplers.records.files import write_text, writing


def append(path: str | Path, row: dict[str, Any]) -> None:
    """Add one line and wait until it is on disk.

    Raises:
        OSError: it could not be written; the lines before it are as they were.
    """
    with writing(path), Path(path).open("a") as file:
        file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read(path: str | Path) -> list[dict[str, Any]]:
    """All complete lines, in order; an absent file has none."""
    path = Path(path)
    rows: list[dict[str, Any]] = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def cut(path: str | Path, step: int) -> None:
    """Keep the lines up to ``step``, atomically.

    Raises:
        ValueError: the file ends before ``step``, so that part of the history is lost.
    """
    rows = [row for row in read(path) if row["step"] <= step]
    reached = rows[-1]["step"] if rows else 0
    if reached != step:
        raise ValueError(f"{path} ends at step {reached}, but the run is to go on from its checkpoint of step {step}")
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
