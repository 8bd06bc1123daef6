"""Files that are either complete or not there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def write_text(path: str | Path, text: str) -> None:
    """Write ``path`` in one go: whoever reads it, after a kill or a power cut too, finds the old text or the new."""
    write_bytes(path, text.encode())


def write_bytes(path: str | Path, data: bytes) -> None:
    """The same for bytes."""
    with replacing(path) as file:
        file.write(data)


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """The same for a file that is written in parts; nothing is left of it if that fails."""
    path = Path(path)
    unfinished = path.with_name(path.name + ".part")
    with writing(path):
        try:
            with unfinished.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        except BaseException:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Say which file it was that could not be written: a full disk does not.

    Raises:
        OSError: the same one, in a sentence.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise OSError(error.errno, f"{path} could not be written ({reason}); what was there before is kept") from error
