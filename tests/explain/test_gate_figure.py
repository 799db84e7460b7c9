"""The figure of the gates: which panels it has, and what stands below them."""

import pytest
import torch

from cbam_lightning.errors import UsageError
from cbam_lightning.explain import draw_gates
from cbam_lightning.explain.explanations import ExplainedImage, Explanation
from cbam_lightning.explain.gates import Gates

PIXELS = torch.zeros(3, 8, 8, dtype=torch.uint8)


def explained(*gates):
    seen = Explanation(0, 1.0, 0, 1.0, torch.zeros(2, 2), gates)
    return ExplainedImage("image", PIXELS, explanations=(seen,))


def test_gates_are_grey_and_attention_is_coloured_from_zero():
    values = torch.tensor([[0.5, 1.0], [1.0, 1.5]])
    gates = [
        Gates("layer1.attention", channel=torch.tensor([0.2, 0.9, 0.4]), spatial=values),
        Gates("layer2.attention", channel=torch.tensor([0.2, 0.9])),
        Gates("layer3.attention", attention=values),
    ]
    panels = draw_gates([explained(*gates), explained(*gates)]).axes
    assert [panel.get_title() for panel in panels[:3]] == ["layer1", "layer2", "layer3"]
    for row in (panels[0:6], panels[6:12]):
        grey, nothing, coloured, curve, other, empty = row
        assert (grey.images[0].get_cmap().name, grey.images[0].get_clim()) == ("gray", (0.5, 1.5))
        assert grey.get_xlabel() == "0.50 to 1.50"
        assert (coloured.images[0].get_cmap().name, coloured.images[0].get_clim()) == ("magma", (0, 1.5))
        assert coloured.get_xlabel() == "attention 0.50 to 1.50"
        assert curve.lines[0].get_ydata().tolist() == pytest.approx([0.9, 0.4, 0.2])
        assert len(other.lines) == 1
        assert not nothing.axison
        assert not empty.axison


def test_a_network_without_attention_is_refused():
    with pytest.raises(UsageError, match="no attention module"):
        draw_gates([explained()])
