"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere.

The work itself is a host loop over compiled chunks; nothing is called back from compiled code.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Advance = Callable[..., None]
EVERY = 5.0  # seconds between plain lines


@contextlib.contextmanager
def progress(label: str, total: int, done: int = 0) -> Iterator[Advance]:
    """A context that yields ``advance(done, **numbers)``.

    Args:
        label: what is being done.
        total: the amount of work.
        done: where it starts, more than 0 for a resumed run.
    """
    console = Console()
    with _bar(console, label, total, done) if console.is_terminal else _lines(label, total) as advance:
        yield advance


@contextlib.contextmanager
def _bar(console: Console, label: str, total: int, done: int) -> Iterator[Advance]:
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    with Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[numbers]}"), console=console) as bar:
        task = bar.add_task(label, total=total, completed=done, numbers="compiling")
        yield lambda done, **numbers: bar.update(task, completed=done, numbers=_show(numbers))


@contextlib.contextmanager
def _lines(label: str, total: int) -> Iterator[Advance]:
    printed = -EVERY

    def advance(done: int, **numbers: float) -> None:
        nonlocal printed
        if time.monotonic() - printed >= EVERY or done >= total:
            printed = time.monotonic()
            print(f"{label}: {done}/{total} {_show(numbers)}", flush=True)

    yield advance


def _show(numbers: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.4g}" for name, value in numbers.items())
