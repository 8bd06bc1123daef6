"""The study that learns one sampler: what it writes, how it goes on, what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import jaxsamplers as js
from experiments import config, learn_schedule, learned_vs_hand
from jaxsamplers import plotting, plotting_schedules
from jaxsamplers.records import checkpoints, history

ROOT = Path(__file__).parents[1]
LD3 = ROOT / "configs" / "learn" / "ld3_closed_form.py"
AYS = ROOT / "configs" / "learn" / "ays_mixture.py"
TINY = ["problem=mixture", "calls=3", "teacher.steps=20", "teacher.train=32", "teacher.check=16", "teacher.test=64"]
TINY += ["learn.steps=40", "learn.every=10", "learn.checkpoint=2", "learn.batch=16"]
FEW = {name: js.schedules.registry[name] for name in ("half_log_snr", "quadratic", "flow_shift")}


@pytest.fixture(scope="module", autouse=True)
def few_schedules():
    """Each schedule of the registry compiles anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(js.schedules, "registry", FEW)
        yield


def start(out: Path, *more: str, path: Path = LD3) -> int:
    return learn_schedule.main(["--config", str(path), "--out", str(out), "--set", *TINY, *more])


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("learn")
    assert start(out) == 0
    return out


def test_what_it_writes(run):
    summary = json.loads((run / "summary.json").read_text())
    assert summary["after"]["mean"] < 0.9 * summary["before"]["mean"]
    assert summary["ratio"] == pytest.approx(summary["after"]["mean"] / summary["by_hand"]["mean"])
    assert summary["calls"] == 3
    assert [row["step"] for row in history.read(run / "history.jsonl")] == [10, 20, 30, 40]
    for picture in ("schedule", "curves", "before_after"):
        assert (run / f"{picture}.png").stat().st_size > 5000


def test_the_recipe_is_what_was_measured(run):
    """Loaded where nothing of the run is known, it makes the samples whose error the summary states."""
    settings = config.override(config.load(LD3), TINY)
    ready = learn_schedule.prepare(settings, run)
    program = f"""
import numpy as np, jaxsamplers as js
from jaxsamplers import problems
recipe = js.recipes.load({str(run / "recipe.json")!r})
model = problems.mixture().denoiser(recipe.process)
np.save({str(run / "ends.npy")!r}, js.sample(recipe.sampler, model, np.load({str(run / "x.npy")!r})))
"""
    np.save(run / "x.npy", ready.test.x)
    subprocess.run([sys.executable, "-c", program], check=True, cwd=run, env={"PYTHONPATH": str(ROOT)})
    apart = np.linalg.norm(np.load(run / "ends.npy") - ready.test.goal, axis=1)
    summary = json.loads((run / "summary.json").read_text())
    assert apart.mean() == pytest.approx(summary["after"]["mean"], rel=1e-3)
    assert js.recipes.load(run / "recipe.json").provenance["learned"] == config.to_json(settings)


def test_the_recipe_goes_elsewhere(run):
    """To diffusers as levels of noise, and to other numbers of steps."""
    recipe = js.recipes.load(run / "recipe.json")
    scheduler = {"_class_name": "EulerDiscreteScheduler", "beta_schedule": "linear"}
    sigmas = js.recipes.to_diffusers(recipe.process, recipe.times, scheduler)["sigmas"]
    np.testing.assert_allclose(sigmas, np.exp(-recipe.process.half_log_snr(recipe.times)), rtol=1e-4)
    more = js.schedules.interpolate(recipe.process, recipe.times, 6)
    np.testing.assert_allclose(more[::2], recipe.times, rtol=1e-4)


def test_an_interrupted_run_goes_on_to_the_same_numbers(run, tmp_path, monkeypatch, capsys):
    append = history.append

    def interrupt(path, row):
        append(path, row)
        if row["step"] == 30:
            raise KeyboardInterrupt

    def preempt(path, row):
        append(path, row)
        if row["step"] == 30:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(history, "append", interrupt)
    assert start(tmp_path) == 130
    assert "goes on from step 20" in capsys.readouterr().err
    monkeypatch.setattr(history, "append", preempt)
    assert start(tmp_path) == 143
    assert f"told to leave (SIGTERM): the run is saved in {tmp_path} at step 30 of 40" in capsys.readouterr().err
    monkeypatch.setattr(history, "append", append)
    assert start(tmp_path) == 0
    assert (tmp_path / "history.jsonl").read_text() == (run / "history.jsonl").read_text()
    times = [js.recipes.load(out / "recipe.json").times for out in (tmp_path, run)]
    np.testing.assert_array_equal(*times)


SLOWLY = """
import sys, time
import jaxsamplers as js
from jaxsamplers.records import history
from tests import test_learn_schedule as case

append = history.append

def slowly(path, row):
    append(path, row)
    time.sleep(1)

history.append, js.schedules.registry = slowly, case.FEW
sys.exit(case.start(case.Path(sys.argv[1])))
"""


@pytest.mark.slow
def test_a_command_that_is_told_to_leave(run, tmp_path):
    """A process of its own; the same command makes the recipe of a run that was left alone."""
    out, environment = tmp_path / "out", os.environ | {"PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "8"}
    command = [sys.executable, "-c", SLOWLY, str(out)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not history.read(out / "history.jsonl"):
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 143, said
    assert "told to leave (SIGTERM)" in said
    assert not (out / "recipe.json").exists()
    assert start(out) == 0
    rows = zip(history.read(out / "history.jsonl"), history.read(run / "history.jsonl"), strict=True)
    assert all(one == pytest.approx(other, rel=1e-6) for one, other in rows)
    times = [js.recipes.load(folder / "recipe.json").times for folder in (out, run)]
    np.testing.assert_allclose(*times, rtol=1e-6)


def test_what_cannot_be_written_is_said(run, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "recipe.json could not be written (No space left on device)")

    monkeypatch.setattr(learn_schedule, "run", full)
    assert start(run) == 1
    assert "could not be written (No space left on device)" in capsys.readouterr().err


def test_align_your_steps(tmp_path, capsys):
    """Nothing with worse samples than the start is kept, however small its KLUB."""
    assert start(tmp_path, "learn.steps=2", "calls=4", path=AYS) == 0
    assert "sweeps: 2/2" in capsys.readouterr().out
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["after"]["mean"] <= summary["before"]["mean"]
    settings = config.override(config.load(AYS), [*TINY, "calls=4"])
    ready = learn_schedule.prepare(settings, tmp_path)
    begun = js.solvers.dpm_solver_pp(ready.process, js.schedules.half_log_snr(ready.process, 4))
    assert summary["before"]["mean"] == pytest.approx(learned_vs_hand.errors(ready, begun)["mean"], rel=1e-4)
    assert not (tmp_path / "curves.png").exists()


def test_another_run_is_left_alone(run, tmp_path, capsys):
    other = tmp_path / "run"
    shutil.copytree(run, other)
    assert start(other, "learn.rate=0.1") == 1
    assert "learn.rate: 0.02 before, 0.1 now" in capsys.readouterr().err
    last = checkpoints.steps(other / "checkpoints")[-1]
    for file in (other / "checkpoints" / str(last)).rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    assert start(other) == 1
    assert "error: " in capsys.readouterr().err
    assert (other / "history.jsonl").read_text() == (run / "history.jsonl").read_text()


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("problem=mixtur", "did you mean mixture"),
        ("solver=ddmi", "did you mean ddim"),
        ("learn.method=ld4", "did you mean ld3"),
        ("learn.distance=l2", "unknown distance 'l2'"),
        ("learn.steps=35", "steps must be a multiple of every=10, got 35"),
        ("learn.batch=64", r"learn.batch must be at most teacher.train=32, got 64"),
        ("learn.radius=-1.0", "radius must be at least 0"),
        ("start=qudratic", "did you mean quadratic"),
        ("calls=0", "calls must be at least 1"),
    ],
)
def test_settings_that_are_none(assignment, message, tmp_path, capsys):
    assert start(tmp_path, assignment) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_cluster_or_platform_that_is_none(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    assert start(tmp_path / "out") == 1
    assert "error: JAX_NUM_PROCESSES must be an integer of at least 1, got 'two'" in capsys.readouterr().err
    monkeypatch.delenv("JAX_NUM_PROCESSES")
    command = [sys.executable, "-m", "experiments.learn_schedule", "--config", str(LD3), "--out", str(tmp_path / "out")]
    environment = os.environ | {"JAX_PLATFORMS": "abacus"}
    refused = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "error: Unable to initialize backend 'abacus'" in refused.stderr
    assert not (tmp_path / "out").exists()


def test_the_trained_network_must_be_there(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert start(tmp_path / "out", "problem=trained-digits") == 1
    assert "first run python -m experiments.train_digits" in capsys.readouterr().err


def test_pictures_refuse_what_they_cannot_show(tmp_path):
    process = js.processes.vp_linear()
    times = js.schedules.uniform(process, 3)
    with pytest.raises(ValueError, match="unknown best 'karas': did you mean karras"):
        plotting_schedules.among(process, times, {"karras": times}, tmp_path / "a.png", best="karas")
    with pytest.raises(ValueError, match=r"of 'a' have \(3, 1\)"):
        plotting.points({"a": np.zeros((3, 1))}, tmp_path / "a.png")
    with pytest.raises(ValueError, match="no samples"):
        plotting.points({}, tmp_path / "a.png")
    plotting.points({name: np.zeros((3, 2)) for name in "abcde"}, tmp_path / "a.png")
    assert (tmp_path / "a.png").exists()
