"""Names in figures: long ones stay apart, and keep within their place."""

from itertools import pairwise

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cbam_lightning.explain.box_drawing import draw_detections, draw_image
from cbam_lightning.explain.explanations import ExplainedImage, Explanation
from cbam_lightning.explain.figure_text import in_lines, shortened
from cbam_lightning.explain.gradcam_figure import draw_figure

LONG = [f"/data/long/folder/resnet50_cbam_imagenet_seed_{seed}.safetensors" for seed in (17, 18, 19)]


def extents(figure, texts):
    """Return left and right of texts, in pixels."""
    FigureCanvasAgg(figure).draw()
    return [(box.x0, box.x1) for box in (text.get_window_extent() for text in texts)]


def test_what_is_short_stays_and_what_is_long_keeps_both_ends():
    assert shortened("Ankle boot") == "Ankle boot"
    assert shortened("abcdefgh", 5) == "ab…gh"
    assert shortened("a\nb\x1b") == "a?b?"
    assert in_lines("resnet20_cbam.fashion_mnist") == "resnet20_cbam.\nfashion_mnist"


@pytest.mark.parametrize("most", [2, 3])
def test_names_that_differ_at_the_end_still_differ(most):
    found = [in_lines(name, 18, most) for name in LONG]
    assert len(set(found)) == len({shortened(name, 48) for name in LONG}) == 3
    assert all(len(line) <= 18 for name in found for line in name.split("\n"))
    assert all(name.count("\n") < most for name in found)


def test_titles_of_the_figure_do_not_touch():
    classes = ["a" * 40, "b" * 40]
    seen = tuple(Explanation(0, 0.5, 1, 0.9, torch.ones(2, 2)) for _ in LONG)
    image = ExplainedImage("x", torch.zeros(3, 8, 8, dtype=torch.uint8), 0, explanations=seen)
    figure = draw_figure([image], LONG, classes)
    for texts in ([panel.title for panel in figure.axes], [panel.texts[0] for panel in figure.axes]):
        places = extents(figure, texts)
        assert all(right < left for (_, right), (left, _) in pairwise(places))


def test_the_score_of_a_class_with_a_long_name_is_in_the_picture():
    figure = Figure(figsize=(3, 3), layout="constrained")
    panel = figure.subplots()
    panel.axis("off")
    draw_image(panel, torch.zeros(3, 112, 112))
    found = {
        "boxes": torch.tensor([[0.0, 20, 30, 50], [80, 20, 112, 50]]),
        "labels": torch.tensor([1, 1]),
        "scores": torch.tensor([0.9, 0.8]),
    }
    draw_detections(panel, found, ("c" * 40,))
    places = extents(figure, panel.texts)
    picture = panel.get_window_extent()
    assert [text.get_text()[-3:] for text in panel.texts] == ["90%", "80%"]
    assert all(picture.x0 - 1 <= left < right <= picture.x1 + 1 for left, right in places)
