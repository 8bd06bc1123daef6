"""A run that survives: notices of preemption, checkpoints cut off half-written, full and failing disks."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import signal
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from orbax.checkpoint import v1 as ocp

import jaxsamplers as js
from jaxsamplers.records import checkpoints, files, history

ADAM = optax.adam(3e-2)
ROOM = 9000  # bytes in a file: enough for a history, not for a checkpoint


def quadratic(parameters, batch, key):
    return ((parameters["a"] - batch) ** 2).mean()


def learn(out: Path | None = None, steps: int = 30, report=lambda *_, **__: None) -> js.learn.Result:
    """Validations after 5, 10, 15, ..., checkpoints after 10, 20, 30."""
    data, start = jax.random.normal(jax.random.key(0), (8, 4096)), jax.random.normal(jax.random.key(1), (4096,))
    return js.learn.fit(
        quadratic, {"a": start}, optimizer=ADAM, batches=js.learn.batches(data, 4), steps=steps, every=5, out=out,
        checkpoint=2, report=report,
    )  # fmt: skip


def same(a: js.learn.Result, b: js.learn.Result) -> bool:
    leaves = zip(jax.tree.leaves((a.last, a.parameters)), jax.tree.leaves((b.last, b.parameters)), strict=True)
    return all(bool((one == other).all()) for one, other in leaves) and a.history == b.history


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fails(*_, **__):
    raise OSError(errno.EIO, os.strerror(errno.EIO))


@contextlib.contextmanager
def full_disk(room: int = 0):
    """No file can have more than so many bytes: as a full disk, an error of whatever writes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="module")
def whole() -> js.learn.Result:
    return learn()


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("begun")
    learn(out, steps=20)
    return out


@pytest.fixture
def run(begun, tmp_path) -> Path:
    """Checkpoints of steps 10 and 20, to be damaged."""
    return Path(shutil.copytree(begun, tmp_path / "run"))


@pytest.fixture
def handler():
    """SIGTERM as a program finds it; ``handler(f)`` for another one."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield lambda own: signal.signal(signal.SIGTERM, own)
    signal.signal(signal.SIGTERM, before)


def leave_at(step: int, seen: list):
    """A reporter in the place of whoever takes the machine away."""

    def report(done, total, **_):
        if done == step:
            signal.raise_signal(signal.SIGTERM)
        seen.append(signal.getsignal(signal.SIGTERM))

    return report


@pytest.mark.parametrize("step", [15, 20, 30])
def test_a_notice_of_preemption(step, whole, handler, tmp_path):
    """Saved where it was, between two checkpoints, at one and at the end; and on to the same numbers."""
    seen: list = []
    sentence = rf"told to leave \(SIGTERM\): the run is saved in {tmp_path} at step {step} of 30, where the same call"
    with pytest.raises(js.learn.Preempted, match=sentence) as caught:
        learn(tmp_path, report=leave_at(step, seen))
    assert caught.value.step == step
    assert checkpoints.steps(tmp_path / "checkpoints")[-1] == step
    assert callable(seen[0])
    assert seen[-1] == signal.SIG_DFL == signal.getsignal(signal.SIGTERM)  # a second one would have ended it
    assert same(learn(tmp_path), whole)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_who_hears_no_notice(whole, handler, tmp_path):
    """A program with a handler of its own, a run without a place to be saved to, another thread."""
    heard, seen, results = [], [], []
    handler(lambda *_: heard.append(1))
    assert same(learn(tmp_path / "own", report=leave_at(15, seen)), whole)
    assert heard == [1]
    handler(signal.SIG_DFL)
    learn(report=leave_at(0, seen))
    assert seen[-6:] == [signal.SIG_DFL] * 6
    thread = threading.Thread(target=lambda: results.append(learn(tmp_path / "thread", report=leave_at(0, seen))))
    thread.start()
    thread.join()
    assert seen[-6:] == [signal.SIG_DFL] * 6
    assert same(results[0], whole)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def largest(folder: Path) -> Path:
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda folder: cut(largest(folder)), r"1 of its files are damaged or missing \(state/"),
        (lambda folder: largest(folder).unlink(), r"1 of its files are damaged or missing \(state/"),
        (lambda folder: shutil.rmtree(folder / "state"), r"\d+ of its files are damaged or missing"),
        (lambda folder: (folder / "_CHECKPOINT_METADATA").write_bytes(b""), r"1 of its files are .* \(_CHECKPOINT_MET"),
        (lambda folder: cut(folder / "manifest.json"), r"its manifest\.json is damaged"),
        (lambda folder: (folder / "manifest.json").write_bytes(b""), r"its manifest\.json is damaged"),
    ],
)
def test_a_damaged_checkpoint_is_never_loaded(damage, problem, run):
    """And nothing of the run is touched."""
    latest = run / "checkpoints" / "20"
    damage(latest)
    before = contents(run)
    advice = "Nothing was changed; move that directory away to go on from step 10"
    with pytest.raises(checkpoints.CheckpointError, match=f"{latest} cannot be used: {problem}.*{advice}"):
        learn(run)
    assert contents(run) == before


def test_the_advice_helps(run, whole, tmp_path):
    cut(largest(run / "checkpoints" / "20"))
    (run / "checkpoints" / "20").rename(tmp_path / "away")
    assert same(learn(run), whole)


def test_a_checkpoint_that_was_not_finished(run, whole):
    """Without its manifest it does not count, which is said; one that orbax had not finished has another name."""
    (run / "checkpoints" / "20" / "manifest.json").unlink()
    (run / "checkpoints" / "25.orbax-checkpoint-tmp").mkdir()
    with pytest.warns(UserWarning, match=r"checkpoints/20 is incomplete .* is not used: the run goes on from step 10"):
        assert same(learn(run), whole)
    for step in (20, 30):
        (run / "checkpoints" / str(step) / "manifest.json").unlink()
    with pytest.warns(UserWarning, match="checkpoints/30 is incomplete .* the run starts from the beginning"):
        assert same(learn(run), whole)


def test_what_is_not_complete_takes_no_place(run, monkeypatch):
    """The last two complete ones are kept, whatever else lies there, until the next one is complete."""
    folder = run / "checkpoints"
    shutil.copytree(folder / "20", folder / "25", ignore=shutil.ignore_patterns("manifest.json"))
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "write_text", fails)  # all but the manifest is there
        with pytest.raises(checkpoints.CheckpointError, match="goes on from step 20"):
            checkpoints.save(folder, 30, {"a": jnp.zeros(2)})
    assert checkpoints.steps(folder)[-1] == 20
    for step in range(35, 60, 5):
        checkpoints.save(folder, step, {"a": jnp.zeros(2)})
    assert sorted(path.name for path in folder.iterdir()) == ["50", "55"]


def test_a_full_disk_at_a_checkpoint(whole, tmp_path, caplog):
    with contextlib.ExitStack() as stack:

        def report(done, total, **_):
            if done == 15:
                stack.enter_context(full_disk(ROOM))

        sentence = f"the checkpoint of step 20 could not be written to {tmp_path}/checkpoints: .* File too large .*"
        sentence += "Nothing earlier is lost: make room there, and the same run goes on from step 10"
        with pytest.raises(checkpoints.CheckpointError, match=sentence):
            learn(tmp_path, report=report)
    assert len(caplog.records) < 3  # of orbax, which logs a failure in each of its threads
    assert checkpoints.steps(tmp_path / "checkpoints") == [10]
    assert same(learn(tmp_path), whole)


def test_a_full_disk_at_the_history(whole, tmp_path):
    """The line is half written; what is lost of it is written again."""
    with contextlib.ExitStack() as stack:

        def report(done, total, **_):
            if done == 10:
                size = (tmp_path / "history.jsonl").stat().st_size
                stack.enter_context(full_disk(size + 10))

        with pytest.raises(OSError, match=r"history\.jsonl could not be written \(File too large\)"):
            learn(tmp_path, report=report)
    assert not (tmp_path / "history.jsonl").read_text().endswith("\n")
    assert [row["step"] for row in history.read(tmp_path / "history.jsonl")] == [5, 10]
    assert same(learn(tmp_path), whole)


def test_a_full_disk_at_a_file(tmp_path):
    """A recipe, a text and a teacher's samples: the old one or nothing, and nothing half-written beside it."""
    process = js.processes.vp_linear()
    sampler = js.solvers.ddim(process, js.schedules.uniform(process, 3))
    js.recipes.save(tmp_path / "recipe.json", sampler, process=process)
    files.write_text(tmp_path / "text", "before")
    before = contents(tmp_path)
    network, x = (lambda x, t: x), jnp.ones((4, 2))
    for name, write in (
        ("recipe.json", lambda: js.recipes.save(tmp_path / "recipe.json", sampler)),
        ("text", lambda: files.write_text(tmp_path / "text", "after " * 30)),
        ("pairs.npz", lambda: js.learn.teach(sampler, network, x, cache=tmp_path / "pairs.npz")),
    ):
        with full_disk(64), pytest.raises(OSError, match=rf"{name} could not be written .*before is kept") as caught:
            write()
        assert caught.value.errno == errno.EFBIG
        assert contents(tmp_path) == before
    (tmp_path / "pairs.npz").write_bytes(b"PK no pairs")
    with pytest.raises(ValueError, match=r"pairs\.npz cannot be read .*: remove it, and the teacher runs once more"):
        js.learn.teach(sampler, network, x, cache=tmp_path / "pairs.npz")


def test_a_disk_that_fails_to_read(run, whole, monkeypatch):
    """At the check of the files, or afterwards."""
    before = contents(run)
    for owner, name in ((Path, "read_bytes"), (ocp.training.Checkpointer, "load")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fails)
            with pytest.raises(
                checkpoints.CheckpointError, match=r"20 cannot be used: it cannot be read \(.*Input/output error\)"
            ):
                learn(run)
    assert contents(run) == before
    assert same(learn(run), whole)


def test_numbers_of_the_run_are_numbers(whole):
    """What the others are compared with has moved, and is finite."""
    assert np.isfinite([row["loss"] for row in whole.history]).all()
    assert whole.history[-1]["loss"] < whole.history[0]["loss"]
