"""Which steps a trace for xprof is of."""

import contextlib

import jax
import optax
import pytest

import jaxsamplers as js
from jaxsamplers.records.tracing import tracing


@pytest.fixture
def events(monkeypatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda directory: found.append(f"start {directory}"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: found.append("stop"))
    return found


@pytest.mark.parametrize(
    ("first", "steps", "wanted"),
    [
        (0, 10, "start here, 40, stop, 50, 60, 70"),
        (10, 10, "40, start here, 50, stop, 60, 70"),
        (15, 20, "40, 50, start here, 60, 70, stop"),
        (30, 90, "40, 50, 60, start here, 70, stop"),
        (40, 10, "40, 50, 60, 70"),
    ],
)
def test_steps_count_from_where_the_run_goes_on(events, first, steps, wanted):
    with tracing("here", first, steps) as watch:
        for done in (40, 50, 60, 70):
            watch(done)
            events.append(str(done))
    assert ", ".join(events) == wanted


def test_a_trace_ends_with_an_error(events):
    with contextlib.suppress(KeyboardInterrupt), tracing("here", 0, 10) as watch:
        watch(0)
        raise KeyboardInterrupt
    assert events == ["start here", "stop"]


def test_what_cannot_be():
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"), tracing("here", 0, 0):
        pass
    with pytest.raises(ValueError, match=r"trace=\(1, 2\) needs out"):
        js.learn.fit(lambda p, b, k: 0.0, 0.0, optimizer=optax.sgd(1.0), batches=lambda s, k: s, steps=50, trace=(1, 2))
