"""That the benchmark compares equal computations and says what it left out; nothing is timed."""

import json

import numpy as np
import pytest

from experiments.benchmarks import peers


def test_a_tiny_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(peers, "installed", lambda package: package in ("jax", "diffrax"))
    out = tmp_path / "peers.json"
    tiny = ["batch=2", "features=3", "width=4", "blocks=1", "steps=4", "rounds=1"]
    assert peers.main(["--json", str(out), "--set", *tiny]) == 0
    results = json.loads(out.read_text())
    assert results["machine"]["left_out"] == ["diffusers", "k-diffusion", "torch"]
    ways = [(line["method"], line["calls"], line["way"]) for line in results["lines"]]
    assert ways == [
        ("euler", 4, "ours"),
        ("euler", 4, "diffrax"),
        ("euler", 4, "network alone, jax"),
        ("heun", 7, "ours"),
        ("heun", 7, "diffrax"),
        ("heun", 7, "network alone, jax"),
        ("dpmpp_2m", 4, "ours"),
        ("dpmpp_2m", 4, "network alone, jax"),
    ]
    assert "not installed: diffusers, k-diffusion, torch" in capsys.readouterr().out


def test_different_samples_are_not_timed():
    found = {"ours": peers.Candidate(lambda: np.ones(3), 0.0), "theirs": peers.Candidate(lambda: np.zeros(3), 0.0)}
    with pytest.raises(ValueError, match=r"euler: theirs ends 1\.0e\+00 away from our sample"):
        peers.same_sample("euler", found)
