"""The digits study: learns, resumes to the same bits however it was stopped, and refuses clearly."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import config, digits, train_digits
from experiments.networks import NetworkSettings, build
from jaxsamplers import datasets, plotting
from jaxsamplers.records import checkpoints, history
from jaxsamplers.records.progress import progress

ROOT = Path(__file__).parents[1]
LINEN = ROOT / "configs" / "train_digits_linen.py"
NNX = ROOT / "configs" / "train_digits_nnx.py"
TINY = ["network.width=16", "network.depth=1", "network.patch=4", "sample.count=8", "sample.steps=2"]
TINY += ["train.batch=16", "train.warmup=0", "train.chunk=10", "train.checkpoint=20", "train.steps=60"]
HANG = """
import sys, time
from experiments import train_digits
from jaxsamplers.records import history

append = history.append

def hang(path, row):
    append(path, row)
    while row["step"] == 50:
        time.sleep(1)

history.append = hang
train_digits.main(sys.argv[1:])
"""


def tiny(path: Path = LINEN, *more: str) -> digits.Settings:
    return config.override(config.load(path), [*TINY, *more])


@pytest.fixture(scope="module", autouse=True)
def compile_once():
    """Runs that differ in length only share one program here; the killed process below compiles its own."""
    compiled = functools.cache(digits.chunk)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "chunk", lambda settings: compiled(config.override(settings, ["train.steps=60"])))
        yield


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> dict[Path, Path]:
    """Settings file to the directory of an uninterrupted run."""
    runs = {path: tmp_path_factory.mktemp(path.stem) for path in (LINEN, NNX)}
    for path, out in runs.items():
        train_digits.train(tiny(path), out)
    return runs


@pytest.fixture
def copied(straight, tmp_path) -> Path:
    """A finished run that may be damaged."""
    shutil.copytree(straight[LINEN], tmp_path / "run")
    return tmp_path / "run"


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def assert_same_run(a: Path, b: Path) -> None:
    assert (a / "history.jsonl").read_text() == (b / "history.jsonl").read_text()
    (_, one), (_, other) = digits.load(a), digits.load(b)
    plain = lambda training: dataclasses.replace(training, key=jax.random.key_data(training.key))
    jax.tree.map(np.testing.assert_array_equal, plain(one), plain(other))


@pytest.mark.parametrize("path", [LINEN, NNX], ids=["linen", "nnx"])
def test_the_loss_goes_down(straight, path):
    rows = history.read(straight[path] / "history.jsonl")
    assert [row["step"] for row in rows] == [10, 20, 30, 40, 50, 60]
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]
    assert json.loads((straight[path] / "config.json").read_text())["network"]["framework"] in path.stem


@pytest.mark.parametrize("path", [LINEN, NNX], ids=["linen", "nnx"])
def test_an_interrupted_run_resumes_to_the_same_bits(straight, path, tmp_path, monkeypatch):
    append = history.append

    def interrupt(file, row):
        append(file, row)
        if row["step"] == 50:  # beyond the checkpoint of step 40: this line has to be taken back
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(history, "append", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train_digits.train(tiny(path), tmp_path)
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"step": 60, "lo')  # half a line, as a killed process may leave it
    half_written = tmp_path / "checkpoints" / "60.orbax-checkpoint-tmp"
    half_written.mkdir()  # and half a checkpoint
    assert checkpoints.steps(tmp_path / "checkpoints") == [20, 40]
    train_digits.train(tiny(path), tmp_path)
    assert checkpoints.steps(tmp_path / "checkpoints") == [40, 60]
    assert not half_written.exists()
    assert_same_run(straight[path], tmp_path)


def test_a_killed_process_resumes_to_the_same_bits(straight, tmp_path):
    command = [sys.executable, "-c", HANG, "--config", str(LINEN), "--set", *TINY, "--out", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu"}) as process:
        deadline = time.monotonic() + 300
        while len(history.read(tmp_path / "history.jsonl")) < 5 and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert checkpoints.steps(tmp_path / "checkpoints") == [20, 40]
    train_digits.train(tiny(), tmp_path)
    assert_same_run(straight[LINEN], tmp_path)


def test_a_finished_run_changes_nothing_and_goes_on_when_given_more_steps(copied):
    before = contents(copied / "checkpoints")
    train_digits.train(tiny(), copied)
    assert contents(copied / "checkpoints") == before
    assert train_digits.train(tiny(LINEN, "train.steps=80"), copied).step == 80
    with pytest.raises(ValueError, match=r"already at step 80, beyond train\.steps=60"):
        train_digits.train(tiny(), copied)


def test_a_run_with_other_settings_is_refused_and_the_difference_named(copied):
    before = contents(copied)
    with pytest.raises(ValueError, match=r"train\.batch: 16 before, 32 now"):
        train_digits.train(tiny(LINEN, "train.batch=32"), copied)
    assert contents(copied) == before


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (Path.unlink, r"1 of its files are damaged or missing \(state/"),
        (flip, r"1 of its files are damaged or missing \(state/"),
        (lambda file: (file.parents[2] / "manifest.json").write_text("{"), r"its manifest\.json is damaged"),
    ],
    ids=["missing", "one bit", "manifest"],
)
def test_an_unreadable_checkpoint_is_an_error_that_loses_nothing(copied, damage, problem):
    latest = copied / "checkpoints" / "60"
    damage(next((latest / "state" / "d").iterdir()))
    before = contents(copied)
    with pytest.raises(checkpoints.CheckpointError, match=rf"{latest} cannot be used: {problem}.* from step 40"):
        train_digits.train(tiny(), copied)
    assert contents(copied) == before
    shutil.move(latest, copied / "elsewhere")
    assert train_digits.train(tiny(), copied).step == 60


def test_checkpoints_keep_keys_and_shardings_and_the_last_two(tmp_path):
    device = jax.devices()[-1]
    tree = {"key": jax.random.key(3), "half": jnp.ones(2, jnp.bfloat16), "there": jax.device_put(jnp.ones(3), device)}
    for step in (1, 2, 3):
        checkpoints.save(tmp_path, step, tree)
    assert checkpoints.steps(tmp_path) == [2, 3]
    back = checkpoints.restore(tmp_path, tree)
    assert jnp.array_equal(jax.random.normal(back["key"]), jax.random.normal(tree["key"]))
    assert back["half"].dtype == jnp.bfloat16
    assert back["there"].sharding == tree["there"].sharding
    with pytest.raises(ValueError, match="already a checkpoint of step 3"):
        checkpoints.save(tmp_path, 3, tree)
    with pytest.raises(FileNotFoundError, match=r"of step 1 .*\[2, 3\]"):
        checkpoints.restore(tmp_path, tree, 1)
    with pytest.raises(checkpoints.CheckpointError, match=r"has bfloat16\[2\] half where float32\[5\] is wanted"):
        checkpoints.restore(tmp_path, {**tree, "half": jnp.ones(5)})
    (tmp_path / "3" / "manifest.json").unlink()  # as if killed just before the end of saving
    assert checkpoints.steps(tmp_path) == [2]
    checkpoints.save(tmp_path, 3, tree)
    assert checkpoints.steps(tmp_path) == [2, 3]


def test_a_lost_history_is_an_error(copied):
    (copied / "history.jsonl").write_text('{"step": 10, "loss": 1.0}\n')
    with pytest.raises(ValueError, match="ends at step 10, but the run is to go on from its checkpoint of step 60"):
        train_digits.train(tiny(), copied)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(copied, monkeypatch):
    broken = datasets.digits()
    broken = broken._replace(train=np.full_like(broken.train, np.nan))
    monkeypatch.setattr(datasets, "digits", lambda: broken)
    before = contents(copied)
    with pytest.raises(FloatingPointError, match=r"between steps 60 and 70: loss nan.*of step 60, is kept"):
        train_digits.train(tiny(LINEN, "train.steps=80"), copied)
    changed = [name for name, value in contents(copied).items() if value != before[name]]
    assert changed == ["config.json"]


def test_the_command_line_leaves_pictures_or_an_error(copied, capsys):
    arguments = ["--config", str(LINEN), "--set", *TINY, "--out", str(copied)]
    assert train_digits.main(arguments) == 0
    assert "samples.png" in capsys.readouterr().out
    assert json.loads((copied / "summary.json").read_text())["step"] == 60
    for picture in ("samples.png", "trajectory.png", "curves.png"):
        assert (copied / picture).read_bytes().startswith(b"\x89PNG")
    assert train_digits.main([*arguments, "--set", "train.stps=9"]) == 1
    assert "did you mean train.steps?" in capsys.readouterr().err
    assert train_digits.main(["--config", str(ROOT / "configs" / "train_digit_linen.py")]) == 1
    assert "did you mean" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.stps=5", r"no setting 'train.stps': did you mean train\.steps\?"),
        ("steps=5", r"did you mean (train|sample)\.steps\?"),
        ("train.steps=many", r"train\.steps must be of type int, got 'many'"),
        ("train.steps=2.5", r"train\.steps must be of type int, got '2\.5'"),
        ("train.steps=True", r"train\.steps must be of type int, got 'True'"),
        ("train.steps=55", r"steps must be a multiple of chunk \(10\), got 55"),
        ("train.steps", "an override looks like section.name=value, got 'train.steps'"),
        ("train=5", r"train is a section, not a single setting: set one of train\.steps"),
        ("process.name=5", "process is a single setting, not a section"),
        ("process=vp_cosin", "unknown process 'vp_cosin': did you mean vp_cosine"),
        ("network.framework=lines", "did you mean linen"),
        ("network.patch=3", "patch must divide the image's side 8, got 3"),
    ],
)
def test_a_bad_override_says_what_is_allowed(assignment, message):
    with pytest.raises(ValueError, match=message):
        config.override(tiny(), [assignment])


def test_overrides_are_literals_of_the_fields_type():
    settings = config.override(tiny(), ["train.learning_rate=1", "process=vp_linear", "train.seed = 7"])
    assert settings.train.learning_rate == 1.0
    assert isinstance(settings.train.learning_rate, float)
    assert (settings.process, settings.train.seed) == ("vp_linear", 7)
    together = config.override(tiny(), ["train.steps=77", "train.chunk=7", "train.checkpoint=14"])
    assert (together.train.steps, together.train.chunk) == (77, 7)


def test_the_two_forms_are_one_network():
    settings = NetworkSettings("linen", width=8, depth=2, patch=2)
    linen, nnx = (
        jax.eval_shape(functools.partial(build, dataclasses.replace(settings, framework=framework)), jax.random.key(0))
        for framework in ("linen", "nnx")
    )
    assert [leaf.shape for leaf in jax.tree.leaves(linen)] == [leaf.shape for leaf in jax.tree.leaves(nnx)]
    rng = np.random.default_rng(0)
    leaves = [rng.normal(size=leaf.shape).astype(np.float32) / 4 for leaf in jax.tree.leaves(linen)]
    linen, nnx = (jax.tree.unflatten(jax.tree.structure(network), leaves) for network in (linen, nnx))
    x = jax.random.normal(jax.random.key(3), (3, 8, 8, 1))
    answer = jax.jit(lambda network, t: network(x, t))
    for t in (jnp.asarray(0.4), jnp.asarray([0.1, 0.5, 0.9])):
        np.testing.assert_allclose(answer(linen, t), answer(nnx, t), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(answer(nnx, jnp.asarray(0.4)), answer(nnx, jnp.full(3, 0.4)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("process", ["vp_cosine", "vp_linear", "rectified_flow"])
@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v", "velocity"])
def test_the_loss_is_zero_for_the_denoiser_that_knows(process, prediction):
    settings = config.override(tiny(), [f"process={process}", f"prediction={prediction}"])
    x0 = jnp.full((32, 8, 8, 1), 0.3)
    forward = digits.process_of(settings)
    perfect = digits.js.predict(lambda x, t: x0, forward, prediction)
    assert digits.denoising_loss(perfect, forward, prediction, jax.random.key(0), x0) == 0.0


def test_pictures_refuse_what_they_cannot_show(tmp_path):
    images = np.zeros((5, 8, 8, 1))
    plotting.sheet(images, tmp_path / "sheet.png", columns=2, title="five")
    plotting.trajectory(images, np.linspace(1, 0, 5), tmp_path / "trajectory.pdf")
    plotting.curves([1, 2], {"loss": [1.0, -1.0]}, tmp_path / "curves.png", logarithmic=["loss"])
    with pytest.raises(ValueError, match=r"images must have shape \[n, height, width, 1\] with n > 0, got \(8, 8\)"):
        plotting.sheet(np.zeros((8, 8)), tmp_path / "sheet.png")
    with pytest.raises(ValueError, match="finite"):
        plotting.sheet(images * np.nan, tmp_path / "sheet.png")
    with pytest.raises(ValueError, match=r"5 images, times of shape \(4,\)"):
        plotting.trajectory(images, np.zeros(4), tmp_path / "trajectory.png")
    with pytest.raises(ValueError, match="'loss' has 3 values for 2 points"):
        plotting.curves([1, 2], {"loss": [1.0, 2.0, 3.0]}, tmp_path / "curves.png")


def test_progress_is_plain_lines_without_a_terminal(capsys):
    with progress("counting", 3) as advance:
        for done in (1, 2, 3):
            advance(done, loss=0.5)
    assert capsys.readouterr().out.splitlines() == ["counting: 1/3 loss 0.5", "counting: 3/3 loss 0.5"]
