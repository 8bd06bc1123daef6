import json

import pytest

from jaxsamplers import leaderboard
from jaxsamplers.comparison import Measured, Point

RESULTS = [
    Measured(
        "ddim", "uniform", {"a": [Point(5, 5, 0.9, 0.8), Point(10, 10, 0.5, 0.4)], "b": [Point(10, 10, 3, 2)]}, {}
    ),
    Measured("ddim", "karras", {"a": [Point(5, 5, 0.7, 0.9), Point(10, 10, 0.4, 0.3)], "b": [Point(10, 10, 9, 8)]}, {}),
    Measured(
        "heun", "uniform", {"a": [Point(5, 5, 9, float("nan")), Point(10, 9, 0.2, 0.1)], "b": []}, {10: "no  end"}
    ),
    Measured("heun", "karras", {"a": [], "b": [Point(10, 9, 2, 1)]}, {5: "no end", 10: "no end"}),
    Measured("ddpm", "", {}, {}, stochastic=True),
]


def test_every_solver_is_entered_with_its_best_schedule():
    board = leaderboard.board(RESULTS, "a")
    assert list(board) == ["ddim", "heun"]
    assert board["ddim"][5] == leaderboard.Best(0.8, 0.9, "uniform", 5)
    assert board["ddim"][10] == leaderboard.Best(0.3, 0.4, "karras", 10)
    assert list(board["heun"]) == [10]  # NaN is no error
    assert leaderboard.ranked(board, 10) == ["heun", "ddim"]
    assert leaderboard.ranked(board, 5) == ["ddim", "heun"]


def test_table_and_markdown():
    boards = {name: leaderboard.board(RESULTS, name) for name in ("a", "b")}
    lines = leaderboard.table(boards["a"], [5, 10], by=10, schedules=["uniform", "karras"]).splitlines()
    assert [line.split()[0] for line in lines] == ["median", "heun", "ddim"]
    assert lines[1].split()[1:] == ["-", "1.00e-01", "(uniform)"]
    assert lines[2].split()[1:] == ["8.00e-01", "(uniform)", "3.00e-01", "(karras)"]
    assert len({len(line) for line in lines}) == 1
    assert leaderboard.markdown(boards, by=10, rows=1).splitlines() == [
        "| 10 calls | a | b |",
        "|---|---|---|",
        "| `heun` | 1.00e-01 (uniform) | 1.00e+00 (karras) |",
    ]


def test_another_name_for_the_same_solver_is_told():
    again = Measured("euler", "karras", RESULTS[1].points, {})
    also = Measured("euler", "uniform", RESULTS[0].points, {})
    boards = {name: leaderboard.board([*RESULTS, again, also], name) for name in ("a", "b")}
    assert leaderboard.twins(boards) == {"euler": "ddim"}
    assert leaderboard.twins({"a": {}}) == {}


def test_the_record_holds_everything_in_plain_numbers():
    record = json.loads(json.dumps(leaderboard.record(RESULTS, ["a", "b"], seed=3)))
    assert record["seed"] == 3
    assert record["errors"]["b"]["ddim"]["karras"] == [{"budget": 10, "calls": 10, "mean": 9, "median": 8}]
    assert record["refused"][0] == {"solver": "heun", "schedule": "uniform", "calls": 10, "reason": "no end"}
    assert record["stochastic"] == ["ddpm"]
    assert leaderboard.notes(RESULTS) == [
        "heun: no end (uniform, karras)",
        "left out, they draw noise: ddpm",
    ]


def test_pictures_need_something_to_draw(tmp_path):
    leaderboard.draw(leaderboard.board(RESULTS, "a"), tmp_path / "a.png", families={}, title="a")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="nothing to draw"):
        leaderboard.draw({}, tmp_path / "b.png", families={}, title="b")
