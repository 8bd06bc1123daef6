import numpy as np
import pytest

from jaxsamplers.plotting_compare import PER_PANEL, _limits, _panels, _ticks, compare

CALLS = (5, 10, 20)
RESULTS = {f"solver_{i}": [(c, (1 + i / 10) / c**2) for c in CALLS] for i in range(40)}
FAMILIES = {name: f"family {i // 3}" for i, name in enumerate(RESULTS)}


def test_every_solver_is_in_one_panel_with_its_family():
    panels = _panels(list(RESULTS), FAMILIES)
    assert sorted(name for panel in panels for name in panel) == sorted(RESULTS)
    assert max(map(len, panels)) <= PER_PANEL
    for family in set(FAMILIES.values()):
        assert sum(any(FAMILIES[name] == family for name in panel) for panel in panels) == 1


def test_a_large_family_is_split():
    panels = _panels(list(RESULTS), dict.fromkeys(RESULTS, "one"))
    assert len(panels) == len(RESULTS) // PER_PANEL


@pytest.mark.parametrize("count", [1, 6, 40])
def test_a_picture_is_written(count, tmp_path):
    results = dict(list(RESULTS.items())[:count])
    results["never finite"] = [(5, float("nan")), (10, float("inf"))]
    results["exact"] = [(5, 0.0)]
    compare(results, tmp_path / "compare.svg", families=FAMILIES, title="some title")
    drawn = (tmp_path / "compare.svg").read_text()
    assert "some title" in drawn
    assert "solver_0" in drawn
    assert "never finite" not in drawn


def test_one_that_blows_up_does_not_squash_the_others():
    calls = np.array([5.0, 10.0])
    tame = [(calls, np.array([1.0, 0.1]))] * 9
    low, high = _limits([*tame, (calls, np.array([1e3, 1e12]))])
    assert low < 0.1
    assert 1.0 < high < 100


def test_the_budgets_most_solvers_meet_are_labelled():
    assert _ticks([5, 8, 10, 20, 5, 7, 9, 19, 5, 8, 10, 20]) == [5, 8, 10, 20]


def test_nothing_to_draw():
    with pytest.raises(ValueError, match="no solver has a finite error"):
        compare({"a": [(5, float("nan"))]}, "never.png")
