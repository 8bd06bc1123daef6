"""A trace of some steps for xprof: what the devices did when, once everything is compiled.

To look at one: ``pip install xprof tensorboard``, then ``tensorboard --logdir DIRECTORY``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from jaxsamplers import checks


@contextlib.contextmanager
def tracing(directory: str | Path, first: int, steps: int) -> Iterator[Callable[[int], None]]:
    """A context that yields ``watch(done)``, to be called before each piece of work; each process traces itself.

    Args:
        directory: where the trace is written.
        first: steps to let pass before it begins, from the first ``watch`` on.
        steps: steps in it; more if a piece has more.

    Raises:
        ValueError: numbers that are none.
    """
    checks.integer("first", first, low=0)
    checks.integer("steps", steps, low=1)
    begin: int | None = None
    state = "to come"

    def watch(done: int) -> None:
        nonlocal begin, state
        begin = done + first if begin is None else begin
        if state == "to come" and done >= begin:
            jax.profiler.start_trace(str(directory))
            begin, state = done, "running"
        elif state == "running" and done >= begin + steps:
            jax.profiler.stop_trace()
            state = "over"

    try:
        yield watch
    finally:
        if state == "running":
            jax.profiler.stop_trace()
