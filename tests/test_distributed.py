"""Many devices and processes: the same samples as one, and sentences for what does not fit."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsamplers as js
from jaxsamplers import distributed
from jaxsamplers.records import checkpoints, history
from tests import pod_parallel, pod_program

ROOT = Path(__file__).parents[1]
POD = ROOT / "tpu_scripts" / "local_pod.sh"


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No cluster, whatever runs the tests."""
    for variable in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", *(f"JAX_{name}" for name in VARIABLES)):
        monkeypatch.delenv(variable, raising=False)


VARIABLES = ("COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID")


def pod(count: int, out: Path, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LOCAL_POD_LOGS": str(out / "logs")}
    command = [str(POD), str(count), sys.executable, *map(str, arguments)]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert not check or run.returncode == 0, run.stdout + run.stderr
    return run


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_make_what_one_makes(count, tmp_path):
    """Samples, tokens, Picard's rows; and a run of one, two and one process, the two of which are told to leave."""
    assert pod_program.line(out=tmp_path / "run", steps=2).stopped == "steps"
    left = pod(count, tmp_path, "-m", "tests.pod_program", "everything", tmp_path / "all.npz", check=False)
    assert left.returncode == 143, left.stdout + left.stderr
    samples, tokens, rows = jax.jit(
        lambda: (
            pod_program.draw(js.sample_keys(jax.random.key(7), jnp.arange(pod_program.COUNT))),
            pod_parallel.tokens(js.sample_keys(jax.random.key(7), jnp.arange(pod_parallel.COUNT))),
            pod_parallel.picard(),
        )
    )()
    with np.load(tmp_path / "all.npz") as made:
        assert made["processes"] == count
        assert made["total"] == 6 * sum(range(count))
        np.testing.assert_allclose(made["samples"], samples, rtol=1e-6, atol=1e-6)
    with np.load(tmp_path / "more.npz") as made:
        np.testing.assert_array_equal(made["arr_0"], tokens)
        np.testing.assert_allclose(made["arr_1"], rows[0], rtol=1e-6, atol=1e-6)
        assert (int(made["arr_2"]), int(made["arr_3"])) == tuple(map(int, rows[1:]))
    assert [path.name for path in sorted((tmp_path / "logs").iterdir())] == [f"{i}.log" for i in range(count)]
    _, step = checkpoints.steps(tmp_path / "run" / "checkpoints")
    assert 6 <= step < pod_program.LONG
    sentence = f"told to leave (SIGTERM): the run is saved in {tmp_path / 'run'} at step {step} of {pod_program.LONG}"
    assert all(sentence in log.read_text() for log in (tmp_path / "logs").iterdir())
    after, whole = (pod_program.line(out=out, steps=step + 4) for out in (tmp_path / "run", None))
    for name in ("step", "loss", "validation", "best"):
        one, other = ([row[name] for row in run.history] for run in (after, whole))
        np.testing.assert_allclose(one, other, rtol=1e-6)
    for one, other in zip(jax.tree.leaves(after.last), jax.tree.leaves(whole.last), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_processes_learn_what_one_learns(tmp_path):
    """And go on, alone, from the checkpoints of two."""
    pod(2, tmp_path, "-m", "tests.pod_program", "fit", tmp_path / "all.npz")
    alone = pod_program.learn()
    with np.load(tmp_path / "all.npz") as found:
        np.testing.assert_allclose(found["losses"], [row["loss"] for row in alone.history], rtol=1e-6)
        np.testing.assert_allclose(found["value"], alone.value, rtol=1e-6)
        leaves = jax.tree.leaves((alone.parameters, alone.last))
        for number, leaf in enumerate(leaves):
            np.testing.assert_allclose(found[f"arr_{number}"], leaf, rtol=1e-6, atol=1e-6)
    assert [row["step"] for row in history.read(tmp_path / "run" / "history.jsonl")] == [2, 4, 6]
    further, straight = (pod_program.learn(out=out, steps=8) for out in (tmp_path / "run", None))
    assert [row["step"] for row in further.history] == [2, 4, 6, 8]
    for one, other in zip(jax.tree.leaves(further.last), jax.tree.leaves(straight.last), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_one_process_is_killed(tmp_path):
    """In the middle of a checkpoint, which then does not count; one process goes on from the one before."""
    ended = pod(2, tmp_path, "-m", "tests.pod_program", "killed", tmp_path / "all.npz", check=False)
    assert ended.returncode == 137
    assert checkpoints.steps(tmp_path / "run" / "checkpoints") == [2]
    further, straight = (pod_program.learn(out=out) for out in (tmp_path / "run", None))
    for one, other in zip(jax.tree.leaves(further.last), jax.tree.leaves(straight.last), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_processes_run_the_study_of_one(tmp_path):
    """The same command, the same recipe; process 0 writes, both trace themselves."""
    few = ["problem=mixture", "calls=3", "teacher.steps=20", "teacher.train=32", "teacher.check=16", "teacher.test=64"]
    few += ["learn.steps=20", "learn.every=10", "learn.checkpoint=1", "learn.batch=16"]
    study = ["-m", "experiments.learn_schedule", "--config", "configs/learn/ld3_closed_form.py", "--trace", "10:10"]
    runs = [tmp_path / str(count) for count in (1, 2)]
    for count, out in enumerate(runs, 1):
        pod(count, tmp_path, *study, "--out", out, "--set", *few)
    one, two = (history.read(out / "history.jsonl") for out in runs)
    assert [row["step"] for row in two] == [10, 20]
    for name in one[0]:
        np.testing.assert_allclose([row[name] for row in one], [row[name] for row in two], rtol=1e-6)
    one, two = (js.recipes.load(out / "recipe.json") for out in runs)
    for a, b in zip(jax.tree.leaves(one.sampler), jax.tree.leaves(two.sampler), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    assert sorted(path.name for path in (runs[1] / "trace").iterdir()) == ["0", "1"]
    assert len(list((runs[1] / "trace").rglob("*.xplane.pb"))) == 2


def test_one_process_that_fails_ends_all(tmp_path):
    begun = time.monotonic()
    failing = (
        "import os, sys, time; print('no luck'); os.environ['JAX_PROCESS_ID'] == '1' and sys.exit(7); time.sleep(60)"
    )
    run = pod(3, tmp_path, "-c", failing, check=False)
    assert run.returncode == 7
    assert "process 1 ended with status 7" in run.stderr
    assert "no luck" in run.stderr
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize("arguments", [[], ["two", "true"], ["0", "true"], ["2"]])
def test_local_pod_says_how_it_is_used(arguments):
    run = subprocess.run([POD, *arguments], capture_output=True, text=True)
    assert run.returncode == 2
    assert "usage: local_pod.sh NUMBER-OF-PROCESSES COMMAND" in run.stderr


def test_keys_are_the_samples_own():
    mesh = distributed.mesh()
    found = distributed.keys(jax.random.key(3), 16, mesh, first=8)
    wanted = js.sample_keys(jax.random.key(3), jnp.arange(8, 24))
    np.testing.assert_array_equal(jax.random.key_data(found), jax.random.key_data(wanted))
    assert found.sharding.is_equivalent_to(distributed.over_data(mesh), 1)
    assert len(found.sharding.device_set) == len(jax.devices())


def test_a_teacher_on_all_devices():
    """What does not fill them is computed once more by each."""
    process, model, sampler = pod_program.program()
    x = process.prior(jax.random.key(0), (20, 2))
    over = distributed.over_data(distributed.mesh())
    alone, together = (
        js.learn.teach(sampler, model, x, key=jax.random.key(1), **how) for how in ({}, {"chunk": 1, "sharding": over})
    )
    np.testing.assert_allclose(alone.goal, together.goal, rtol=1e-5, atol=1e-6)
    spread = distributed.spread(together.x[:16], distributed.mesh())
    assert spread.sharding == over
    np.testing.assert_array_equal(spread, x[:16])


def test_the_readme():
    example = re.search(r"## Many devices\n\n```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    process, model, sampler = pod_program.program()
    names = {"js": js, "jax": jax, "key": jax.random.key(0), "process": process, "model": model, "sampler": sampler}
    exec(example.replace("50_000", str(pod_program.COUNT)).replace("32, 32, 3", "2"), names)
    assert names["samples"].shape == (pod_program.COUNT, 2)
    assert len(names["samples"].sharding.device_set) == jax.device_count()


def test_samples_need_no_other_device():
    """Neither the noise nor the sampler of a batch over the mesh has a collective in its program."""
    keys = distributed.keys(jax.random.key(7), pod_program.COUNT, distributed.mesh())
    text = jax.jit(pod_program.draw).lower(keys).compile().as_text()
    assert not [word for word in ("all-reduce", "all-gather", "all-to-all", "collective-permute") if word in text]


def test_meshes():
    count = jax.device_count()
    assert distributed.mesh().shape == {"data": count, "model": 1}
    assert distributed.mesh(model=2).shape == {"data": count // 2, "model": 2}
    assert distributed.mesh(data=2, model=-1).shape == {"data": 2, "model": count // 2}
    rows = distributed.shard({"x": np.arange(count)}, distributed.mesh(model=2))
    assert rows["x"].sharding.spec == jax.sharding.PartitionSpec("data")
    np.testing.assert_array_equal(distributed.gather(rows)["x"], np.arange(count))


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a mesh asks of a device."""

    id: int
    platform: str
    device_kind: str
    slice_index: int
    process_index: int
    coords: tuple[int, int, int]
    core_on_chip: int = 0


@pytest.mark.parametrize(("platform", "kind"), [("gpu", "NVIDIA H100"), ("tpu", "TPU v5p"), ("tpu", "TPU v5 lite")])
@pytest.mark.parametrize(("data", "model", "mixed"), [(4, 2, False), (8, 1, False), (2, 4, False), (1, 8, True)])
def test_a_mesh_of_several_slices(platform, kind, data, model, mixed, monkeypatch):
    """A network's parts are in one slice wherever there are as many shares of the batch as slices."""
    chips = [Chip(i, platform, kind, i // 4, i // 4, (i % 2, i % 4 // 2, 0)) for i in (5, 0, 3, 6, 1, 7, 2, 4)]
    monkeypatch.setattr(jax, "devices", lambda: chips)
    monkeypatch.setattr(jax, "device_count", lambda: len(chips))
    monkeypatch.setattr(distributed, "Mesh", lambda devices, names, axis_types: (devices, names))
    devices, names = distributed.mesh(data, model)
    assert names == ("data", "model")
    assert devices.shape == (data, model)
    where = np.array([chip.slice_index for chip in devices.ravel()]).reshape(data, model)
    np.testing.assert_array_equal(where.ravel(), [0] * 4 + [1] * 4)
    assert all((len(set(row)) > 1) == mixed for row in where)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: distributed.mesh(data=3), "data=3 and model=1; their product must be the number of devices, 8"),
        (lambda: distributed.mesh(model=3), "3 does not divide the devices: got data=-1 and model=3"),
        (lambda: distributed.mesh(data=-1, model=-1), "only one of data and model can be -1"),
        (lambda: distributed.mesh(data=0), "data must be at least 1, got 0"),
        (
            lambda: distributed.keys(jax.random.key(0), 20, distributed.mesh()),
            "batch of 20 .* data=8: 16 or 24",
        ),
        (lambda: distributed.shard(np.zeros((4, 2)), distributed.mesh()), "a batch of 4 .* data=8: 8 would"),
        (
            lambda: distributed.start(processes=2),
            "processes=2, but no cluster .* set JAX_COORDINATOR_ADDRESS and",
        ),
        (lambda: distributed.start("here", 2, 0), "address must be host:port, got 'here'"),
        (lambda: distributed.start("here:1", 2), "process is needed too: give it, or set JAX_PROCESS_ID"),
        (lambda: distributed.start("here:1", process=1), "processes is needed too: give it, or set JAX_NUM_PROCESSES"),
        (lambda: distributed.start("here:1", 2, 2), "process must be from 0 to 1, since there are 2, got 2"),
        (lambda: distributed.start(timeout=0), "timeout must be above 0"),
    ],
)
def test_what_does_not_fit(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_tpu_without_a_pod():
    """Chips in a notebook, say, where JAX finds neither a metadata server nor names of other hosts."""
    program = (
        "import jaxsamplers as js; js.distributed._cluster = lambda: 'TPU'; js.distributed.start();"
        "import jax; print(jax.process_count()); js.distributed.start(processes=2)"
    )
    environment = {**os.environ, "TPU_SKIP_MDS_QUERY": "1", "JAX_PLATFORMS": "cpu"}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert run.stdout == "1\n", run.stderr
    assert run.returncode == 1


def test_a_coordinator_that_is_not_there():
    begun = time.monotonic()
    with pytest.raises(TimeoutError, match=r"process 1 of 2 reached nobody at 127.0.0.1:9 within 0.3 s .*must be"):
        distributed.start("127.0.0.1:9", 2, 1, timeout=0.3)
    assert time.monotonic() - begun < 5


class Meeting:
    """In the place of ``jax.distributed``."""

    def __init__(self, monkeypatch, processes: int) -> None:
        self.calls: list[tuple] = []
        monkeypatch.setattr(jax.distributed, "is_initialized", lambda: bool(self.calls))
        monkeypatch.setattr(jax.distributed, "initialize", lambda *given, **_: self.calls.append(given))
        monkeypatch.setattr(jax, "process_count", lambda: processes)


def test_alone_nothing_is_started(monkeypatch):
    meeting = Meeting(monkeypatch, 1)
    distributed.start()
    distributed.start("here:1", 1, 0)
    monkeypatch.setenv("JAX_NUM_PROCESSES", "1")
    distributed.start()
    assert not meeting.calls
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    with pytest.raises(ValueError, match="JAX_NUM_PROCESSES must be an integer of at least 1, got 'two'"):
        distributed.start()


def test_the_environment_says_where(monkeypatch):
    meeting = Meeting(monkeypatch, 2)
    for variable, value in zip(VARIABLES, ("here:12", "2", "0"), strict=True):
        monkeypatch.setenv(f"JAX_{variable}", value)
    distributed.start()
    distributed.start()
    assert meeting.calls == [("here:12", 2, 0)]
    with pytest.raises(RuntimeError, match="processes=3, but 2 have met: start all of them with the same number"):
        distributed.start(processes=3)


def test_slurm_is_found(monkeypatch):
    meeting = Meeting(monkeypatch, 4)
    for variable, value in {"JOB_ID": "1", "STEP_NODELIST": "a[0-3]", "NTASKS": "4", "PROCID": "2"}.items():
        monkeypatch.setenv(f"SLURM_{variable}", value)
    distributed.start(processes=4)
    assert meeting.calls == [(None, None, None)]


def test_a_wait_in_vain_is_explained(monkeypatch, capsys):
    Meeting(monkeypatch, 2)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: time.sleep(0.5))
    distributed.start("127.0.0.1:9", 2, 0, timeout=0.1)
    assert "process 0 waited 0.1 s for all 2 to come, and some did not" in capsys.readouterr().err
