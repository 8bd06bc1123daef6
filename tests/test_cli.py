import json
import sys

import pytest

import jaxsamplers as js
from jaxsamplers import comparison, plotting, problems
from jaxsamplers.cli import main


def test_list_names_everything(capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for registry in (js.solvers.registry, js.schedules.registry, js.processes.registry, problems.registry):
        for name in registry:
            described = [line for line in lines if line.split()[:1] == [name]]
            assert len(described) == 1
            assert len(described[0].split()) > 3
            assert "``" not in described[0]


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
    names = ["--solver", "ddim", "--solver", "heun", "--solver", "ddpm"]
    assert main(["compare", "--calls", "5", "12", "--count", "4", "--out", str(out), *names]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    errors = json.loads(out.with_suffix(".json").read_text())["errors"]
    results = {solver: found["half_log_snr"] for solver, found in errors["mixture"].items()}
    assert list(results) == ["ddim", "heun"]
    assert "left out, they draw noise: ddpm" in capsys.readouterr().out  # it has no error to the flow
    assert [point["calls"] for point in results["heun"]] == [5, 11]
    assert results["heun"][1]["median"] < results["ddim"][1]["median"] < results["ddim"][0]["median"]


def test_compare_reports_what_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(comparison, "exact", lambda process, model, x, times: 0 * x)  # takes seconds to compile
    out = tmp_path / "compare.svg"
    command = ["compare", "--process", "rectified_flow", "--calls", "3", "--count", "2", "--out", str(out)]
    assert main([*command, "--solver", "ddim", "--solver", "lms"]) == 0
    assert "lms: lms predicts noise and needs signal at its first time" in capsys.readouterr().out
    (refused,) = json.loads(out.with_suffix(".json").read_text())["refused"]
    assert (refused["solver"], refused["schedule"], refused["calls"]) == ("lms", "uniform", 3)
    assert main([*command, "--solver", "ddpm"]) == 2
    assert "no solver has an error to show (left out, they draw noise: ddpm)" in capsys.readouterr().err


def test_schedules_are_drawn_and_one_of_them_is_printed(tmp_path, capsys):
    out = tmp_path / "schedules.png"
    command = ["schedules", "--out", str(out), "--process", "rectified_flow"]
    assert main(command) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "karras: this schedule is spaced in sigma / alpha, which must be finite" in printed
    assert "cosine:" not in printed
    assert main([*command, "--schedule", "flow_shift", "--steps", "2", "--t-end", "0.2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["time", "sigma", "/", "alpha"]
    assert [line.split() for line in lines[1:4]] == [["1", "inf"], ["0.777778", "3.5"], ["0.2", "0.25"]]


@pytest.mark.parametrize(("package", "told"), [("matplotlib", "matplotlib"), ("sklearn", "scikit-learn")])
def test_a_missing_package_is_named_with_what_installs_it(package, told, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["sample", "--steps", "2"]) == 2
    error = f"error: this command needs {told}, which is not installed: pip install 'jaxsamplers[experiments]'\n"
    assert capsys.readouterr().err == error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("failure", "status"), [(OSError("disk full"), 2), (KeyboardInterrupt(), 130)])
def test_nothing_is_left_half_written(failure, status, tmp_path, capsys, monkeypatch):
    """The sheet is drawn before the path fails; an older sheet stays as it was."""

    def fail(images, times, path, title):
        path.write_text("half")
        raise failure

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plotting, "trajectory", fail)
    (tmp_path / "samples.png").write_text("older")
    assert main(["sample", "--count", "2", "--steps", "2", "--solver", "ddim", "--trajectory"]) == status
    assert [path.name for path in tmp_path.iterdir()] == ["samples.png"]
    assert (tmp_path / "samples.png").read_text() == "older"
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["sample", "--solver", "dpm_solver_p"], "unknown solver 'dpm_solver_p': did you mean dpm_solver_pp"),
        (["sample", "--schedule", "karas"], "unknown schedule 'karas': did you mean karras"),
        (["sample", "--process", "edn"], "unknown process 'edn': did you mean edm"),
        (["sample", "--process", "pfgm_plus_plus"], "smoothed data has a closed form under normal noise only"),
        (["sample", "--option", "ordr=3"], "unknown option 'ordr': did you mean order"),
        (["sample", "--option", "order"], "--option wants NAME=VALUE, got 'order'"),
        (["sample", "--option", "order=9"], "order must be from 1 to 3, got 9"),
        (["sample", "--option", "order=2.5"], "option order must be an integer, such as its default 2, got '2.5'"),
        (["sample", "--option", "variant=3"], "option variant must be a word, such as its default midpoint, got '3'"),
        (["sample", "--solver", "ddim", "--option", "eta=high"], "option eta must be a number"),
        (["sample", "--option", "lower_order_final=1"], "must be true or false, such as its default True, got '1'"),
        (["sample", "--steps", "many"], "argument --steps: invalid int value: 'many'"),
        (["sample", "--solvr", "ddim"], "unknown argument '--solvr': did you mean --solver"),
        (["sample", "ddim"], "unknown argument 'ddim'"),
        (["smaple"], "unknown command 'smaple': did you mean sample"),
        ([], "the following arguments are required: {sample,compare,schedules,export,list}"),
        (["sample", "--steps", "0"], "steps must be at least 1, got 0"),
        (["sample", "--count", "0"], "--count must be at least 1, got 0"),
        (["sample", "--process", "rectified_flow", "--schedule", "karras"], "give t_start= and t_end="),
        (["sample", "--out", "nowhere/at/all.png"], "there is no folder nowhere"),
        (["sample", "--out", "."], "cannot write .: it is a folder"),
        (["sample", "--out", "samples.pgn"], "a picture's name must end in .png, .pdf, .svg"),
        (["sample", "--out", "a.png", "--trajectory", "a.png"], "two pictures cannot both be written to a.png"),
        (["schedules", "--schedule", "karas"], "unknown schedule 'karas': did you mean karras"),
        (["schedules", "--steps", "0"], "there is no schedule to draw: steps must be at least 1, got 0"),
        (["schedules", "--out", "schedules.jpg"], "a picture's name must end in .png, .pdf, .svg"),
        (["compare", "--calls", "0"], "--calls must be at least 1, got 0"),
        (["compare", "--out", "compare.json"], "a picture's name must end in"),
        (["compare", "--problem", "mixtur"], "unknown problem 'mixtur': did you mean mixture"),
        (["compare", "--solver", "hein"], "unknown solver 'hein': did you mean heun"),
        (["compare", "--schedule", "karas"], "unknown schedule 'karas': did you mean karras"),
        (["compare", "--problem", "json:loads"], "there is no problem json:loads: loads() missing 1 required"),
        (["compare", "--problem", "os:getcwd"], "os:getcwd must return a jaxsamplers.problems.Problem, got str"),
        (["sample", "--solver", "restart", "--option", "intervals=3"], "option intervals is no plain value"),
        (["compare", "--problem", "no.such:thing"], "there is no problem no.such:thing: No module named 'no'"),
    ],
)
def test_bad_commands_answer_in_one_sentence(command, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1
    assert not list(tmp_path.iterdir())
