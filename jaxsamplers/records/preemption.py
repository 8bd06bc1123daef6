"""Leaving in good order when the machine is about to be taken away, of which SIGTERM is the notice.

In a run of several processes the notice is JAX's own: it may come to any of them, and all agree on the step after
which they leave (``multihost_utils.reached_preemption_sync_point``, as orbax asks for it). A single process has none,
and catches the signal itself.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

import jax

Told = Callable[[int], bool]


@contextlib.contextmanager
def preemption() -> Iterator[Told]:
    """A context that yields ``told(step)``: whether to leave after ``step``, alike in all processes.

    Every process asks after each piece of work, with the steps done so far. A single process hears the first SIGTERM
    only, and the second one ends it; it hears none outside the main thread, where Python allows no handler, or where
    the program has a handler of its own.
    """
    if jax.distributed.is_initialized():
        yield _agreed()
    elif threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        with _caught() as told:
            yield told
    else:
        yield lambda step: False


def _agreed() -> Told:
    from orbax.checkpoint import multihost

    asked = 0

    def told(step: int) -> bool:
        nonlocal asked
        # JAX answers yes at one number only, the one after the largest that was asked: leave none out
        answers = [multihost.reached_preemption(number) for number in range(asked + 1, step + 1)]
        asked = step
        return any(answers)

    return told


@contextlib.contextmanager
def _caught() -> Iterator[Told]:
    caught = threading.Event()

    def note(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        caught.set()

    signal.signal(signal.SIGTERM, note)
    try:
        yield lambda step: caught.is_set()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
