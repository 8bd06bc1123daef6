"""The studies of learned samplers, at a size that says only whether they work."""

from __future__ import annotations

import json

import numpy as np
import pytest

import jaxsamplers as js
from experiments import config, learned_report, learned_transfer, learned_vs_hand, methods
from jaxsamplers.records import history

TINY = ["problems=('mixture',)", "solvers=('ddim',)", "calls=(3,)", "methods=('schedule', 'GITS')"]
TINY += ["train=32", "check=16", "test=16", "steps=20", "batch=8"]
STUDY = "configs/learned_vs_hand.py"


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:  # a few schedules are enough
        few = {name: js.schedules.registry[name] for name in ("half_log_snr", "quadratic", "flow_shift")}
        patch.setattr(js.schedules, "registry", few)
        assert learned_vs_hand.main(["--config", STUDY, "--out", str(folder), "--set", *TINY]) == 0
    return folder


def test_what_it_writes(out):
    rows = json.loads((out / "results.json").read_text())["results"]
    assert [row["method"] for row in rows] == [learned_vs_hand.HAND, "schedule", "GITS"]
    hand, learned = rows[0], rows[1]
    assert hand["schedule"] in ("half_log_snr", "quadratic")
    assert (hand["calls"], len(learned["times"])) == (3, 4)
    assert (out / "mixture.png").stat().st_size > 5000
    table = (out / "table.md").read_text()
    assert f"{learned['mean'] / hand['mean']:.2g}" in table


def test_the_errors_are_what_anybody_would_measure(out):
    """The row of the best hand-made schedule again, from scratch."""
    settings = config.override(config.load(STUDY), TINY)
    row = history.read(out / "results.jsonl")[0]
    ready = learned_vs_hand.prepare(settings, "mixture", "vp", out)
    sampler = js.solvers.ddim(ready.process, np.asarray(row["times"], np.float32))
    end = js.sample(sampler, ready.model, ready.test.x)
    exact = js.adaptive.solve(ready.process, ready.model, ready.test.x, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ready.test.goal, exact, atol=1e-3)
    np.testing.assert_allclose(row["mean"], np.linalg.norm(end - exact, axis=1).mean(), rtol=1e-2)


def test_what_is_there_is_not_done_again(out, monkeypatch, capsys):
    before = (out / "results.jsonl").read_text()
    monkeypatch.setattr(learned_vs_hand, "measure", lambda *_: pytest.fail("nothing was missing"))
    assert learned_vs_hand.main(["--config", STUDY, "--out", str(out), "--set", *TINY]) == 0
    assert (out / "results.jsonl").read_text() == before


def test_ratios_are_to_the_best_by_hand_of_the_same_budget():
    base = {"problem": "p", "solver": "s", "seconds": 1.0, "schedule": "karras"}
    rows = [
        base | {"budget": budget, "method": method, "mean": mean}
        for budget, method, mean in ((5, "hand", 2.0), (5, "new", 1.0), (8, "hand", 0.5), (8, "new", 0.1))
    ]
    found = learned_report.ratios(rows, "hand")
    assert found["p", "s", 5, "new"] == pytest.approx(0.5)
    assert found["p", "s", 8, "new"] == pytest.approx(0.2)
    assert "| geometric mean | | 1 | 0.32 |" in learned_report.markdown(rows, "hand")  # sqrt(0.1)
    for row in rows:
        row |= {"median": row["mean"] ** 2, "sliced_wasserstein": 1.0}
    assert learned_report.summary(rows, "hand").splitlines()[-1] == "| new | 2 | 0.32 | 0.1 | 1 | 1 |"


def test_names_that_are_none(capsys):
    for wrong, hint in (("methods=('shedule',)", "schedule"), ("problems=('mixtur',)", "mixture")):
        assert learned_vs_hand.main(["--config", STUDY, "--set", wrong]) == 1
        assert f"did you mean {hint}" in capsys.readouterr().err


def test_a_schedule_carries_to_other_lengths(tmp_path):
    """The interpolated schedule's error in the table is that of ``js.schedules.interpolate``."""
    tiny = ["problem=mixture", "solver=ddim", "steps=4", "others=(3,)", "few=8"]
    tiny += [f"effort.{name}" for name in TINY[4:]]
    arguments = ["--config", "configs/learned_transfer.py", "--out", str(tmp_path), "--set", *tiny]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(js.schedules, "registry", {"quadratic": js.schedules.quadratic})
        patch.setattr(learned_transfer, "PARTS", {"schedule": {}})
        assert learned_transfer.main(arguments) == 0
    found = json.loads((tmp_path / "results.json").read_text())
    settings = config.override(config.load(arguments[1]), tiny)
    ready = learned_vs_hand.prepare(settings.effort, "mixture", "vp", tmp_path)
    times = js.schedules.interpolate(ready.process, np.asarray(found["times"], np.float32), 3)
    error = learned_vs_hand.distances(ready.model, js.solvers.ddim(ready.process, times), ready.test).mean()
    np.testing.assert_allclose(found["lengths"][0]["interpolated"], error, rtol=1e-4)
    assert [row["noises"] for row in found["noises"]] == [8, 32]


def test_optimisers_are_shared():
    assert methods.optimizer(0.1, 10) is methods.optimizer(0.1, 10)
