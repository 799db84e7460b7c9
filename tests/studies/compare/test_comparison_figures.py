"""The figures of a comparison: what is drawn where, in which units and colours."""

import itertools

import pytest
from matplotlib.text import Text

from cbam_lightning.studies.compare.arms import group_arms
from cbam_lightning.studies.compare.comparison import compare
from cbam_lightning.studies.compare.comparison_figures import draw, draw_costs
from cbam_lightning.studies.compare.costs import Costs
from tests.studies.compare.synthetic import run
from tests.studies.compare.test_comparison_table import HIGHER, LOWER, compared


@pytest.mark.parametrize(
    ("metric", "colour", "right"), [("test/loss", "tab:green", -0.61 / 3), ("test/top1", "tab:red", -61 / 3)]
)
def test_the_figure_has_the_units_and_colours_of_the_table(metric, colour, right):
    values, differences = draw(compared(metric, HIGHER, LOWER)).axes
    dot, line = differences.lines[:2]
    assert dot.get_xdata() == pytest.approx([right])
    assert dot.get_color() == line.get_color() == colour
    assert (
        ("percent" in values.get_xlabel())
        == ("points" in differences.get_xlabel())
        == (metric != "test/loss")
    )


def many(step_ms, count=28):
    """Compare arms that gain 0, 1, 2, … points over the baseline ``none``, each with its step times."""
    names = ["none", *(f"a_long_name_{number:02}" for number in range(1, count))]
    runs = [
        run(name, seed, 0.5 + place / 100 + seed * place / 1e5)
        for place, name in enumerate(names)
        for seed in (0, 1)
    ]
    costs = {name: Costs(1, 1, step_ms(place), 1, {}) for place, name in enumerate(names)}
    return compare(group_arms(runs), "none", None, costs)


def test_gains_are_drawn_against_the_relative_step_time():
    (panel,) = draw_costs(many(lambda place: {"cpu": 10.0 + place})).axes
    base, first, interval = panel.lines[:3]
    assert (base.get_xydata().tolist(), base.get_color()) == ([[1.0, 0.0]], "black")
    assert first.get_xydata()[0] == pytest.approx([1.1, 1.0005])
    assert first.get_color() == interval.get_color() == "tab:green"
    low, high = interval.get_ydata()
    assert (low + high) / 2 == pytest.approx(1.0005)
    assert interval.get_xdata() == pytest.approx([1.1, 1.1])
    assert panel.get_xscale() == "log"
    assert "points" in panel.get_ylabel()


def test_a_device_has_a_panel_and_its_own_scale():
    figure = draw_costs(many(lambda place: {"cpu": 10.0 + place / 10, "cuda": 1.0 + place}))
    assert [panel.get_xscale() for panel in figure.axes] == ["linear", "log"]
    assert ["cpu" in figure.axes[0].get_xlabel(), "cuda" in figure.axes[1].get_xlabel()] == [True, True]


@pytest.mark.parametrize("count", [2, 28])
def test_labels_do_not_overlap_and_stand_in_the_order_of_the_gains(count):
    figure = draw_costs(many(lambda place: {"cpu": 1.0}, count))
    figure.draw_without_rendering()
    (panel,) = figure.axes
    boxes = [Text.get_window_extent(text) for text in panel.texts]  # without the lines
    assert [text.get_text() for text in panel.texts][-1] == f"a_long_name_{count - 1:02}"
    assert all(below.y1 <= above.y0 for below, above in itertools.pairwise(boxes))
    width, height = figure.get_size_inches() * figure.dpi
    assert all(box.x1 <= width and box.y0 >= 0 and box.y1 <= height for box in boxes)
