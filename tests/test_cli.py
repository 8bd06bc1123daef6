import json

import pytest

import jaxsamplers as js
from jaxsamplers.cli import main


def test_list_names_everything(capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for registry in (js.solvers.registry, js.schedules.registry, js.processes.registry):
        for name in registry:
            described = [line for line in lines if line.split()[:1] == [name]]
            assert len(described) == 1
            assert len(described[0].split()) > 3


def test_sample_draws_a_sheet_and_a_path(tmp_path, capsys):
    out, path = tmp_path / "sheet.png", tmp_path / "path.png"
    command = ["sample", "--count", "9", "--steps", "6", "--solver", "dpm_solver_pp", "--option", "order=3"]
    assert main([*command, "--out", str(out), "--trajectory", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "network calls            6" in printed
    assert "order=3" in printed
    for word in ("distance to held-out", "nearest training image", "half_log_snr, 6 steps from t = 1 to 0.001"):
        assert word in printed
    for picture in (out, path):
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_same_seed_gives_the_same_sheet(tmp_path, capsys):
    sheets = []
    for seed in ("3", "3", "4"):
        out = tmp_path / "sheet.png"
        command = ["sample", "--count", "4", "--steps", "4", "--solver", "ddpm", "--process", "rectified_flow"]
        assert main([*command, "--t-start", "0.99", "--seed", seed, "--out", str(out)]) == 0
        sheets.append(out.read_bytes())
    assert sheets[0] == sheets[1] != sheets[2]
    assert "uniform, 4 steps from t = 0.99 to 0" in capsys.readouterr().out


def test_compare_ranks_by_the_exact_solution(tmp_path, capsys):
    out = tmp_path / "compare.png"
    names = ["--solver", "ddim", "--solver", "dpm_solver_pp", "--solver", "heun", "--solver", "ddpm"]
    assert main(["compare", "--calls", "5", "12", "--count", "4", "--out", str(out), *names]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    results = json.loads(out.with_suffix(".json").read_text())["solvers"]
    assert list(results) == ["ddim", "dpm_solver_pp", "heun"]  # a stochastic solver has no error to the flow
    assert [point["calls"] for point in results["heun"]] == [5, 11]
    assert results["dpm_solver_pp"][1]["median"] < results["ddim"][1]["median"] < results["ddim"][0]["median"]
    assert "heun" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["sample", "--solver", "dpm_solver_p"], "unknown solver 'dpm_solver_p': did you mean dpm_solver_pp"),
        (["sample", "--schedule", "karas"], "unknown schedule 'karas': did you mean karras"),
        (["sample", "--process", "edn"], "unknown process 'edn': did you mean edm"),
        (["sample", "--option", "ordr=3"], "unknown option 'ordr': did you mean order"),
        (["sample", "--option", "order"], "--option wants NAME=VALUE, got 'order'"),
        (["sample", "--option", "order=9"], "order must be from 1 to 3, got 9"),
        (["sample", "--steps", "0"], "steps must be at least 1, got 0"),
        (["sample", "--count", "0"], "--count must be at least 1, got 0"),
        (["sample", "--process", "rectified_flow", "--schedule", "karras"], "give t_start= and t_end="),
        (["sample", "--out", "nowhere/at/all.png"], "there is no folder nowhere"),
        (["compare", "--problem", "mixtur"], "unknown problem 'mixtur': did you mean mixture"),
        (["compare", "--solver", "hein"], "unknown solver 'hein': did you mean heun"),
    ],
)
def test_bad_commands_answer_in_one_sentence(command, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1
    assert not list(tmp_path.iterdir())
