import numpy as np
import pytest

import jaxsamplers as js
from jaxsamplers import plotting_schedules

FLOW = js.processes.rectified_flow()


def test_equal_schedules_share_a_panel_and_infinite_levels_are_drawn(tmp_path):
    """The text of an SVG file is not in it; its panels' titles are comments."""
    schedules = {
        "one": js.schedules.uniform(FLOW, 4),
        "other": np.array([1.0, 0.5, 0.0]),
        "twin": js.schedules.uniform(FLOW, 4) * (1 + 1e-6),
        "longer": js.schedules.uniform(FLOW, 5),
    }
    path = tmp_path / "schedules.svg"
    plotting_schedules.draw(FLOW, schedules, path, families={"one": "a", "other": "b"}, title="all")
    drawn = path.read_text()
    assert [drawn.count(f"<!-- {title} -->") for title in ("one = twin", "other", "longer", "all")] == [1, 1, 1, 1]
    assert "nan" not in drawn.lower()
    assert "<!-- twin -->" not in drawn


def test_every_step_has_a_bar_of_the_same_area():
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    level = np.array([9.0, 3.0, 2.0, 1.0])
    plotting_schedules._density(axes, level, (0.5, 20.0), "k")
    values, edges, _ = axes.patches[0].get_data()
    np.testing.assert_allclose(values * np.diff(np.log(edges)), 1 / 3)


def test_nothing_to_draw_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="there is nothing to draw: no schedule"):
        plotting_schedules.draw(FLOW, {}, tmp_path / "schedules.png")
