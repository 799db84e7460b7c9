"""A figure of the gates of every attention module of a network, by depth, for a few images."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from cbam_lightning.errors import UsageError
from cbam_lightning.explain.explanations import ExplainedImage
from cbam_lightning.explain.gates import Gates

_TICK_SIZE = 6


def draw_gates(rows: Sequence[ExplainedImage], network: int = 0) -> Figure:
    """Draw the gates of each attention module in a column of its own, from the first module to the last.

    Spatial gates are grey values, from the smallest (black) to the largest (white) of each panel, with both
    values below. Channel gates are a curve in descending order. Of self-attention, which has no gates, the
    attention that each position received is drawn in colours, from 0 (black) to the largest of each panel
    (light yellow); its mean is 1.

    Args:
        rows: Images, in two rows of panels each.
        network: Index of the network whose gates are drawn.

    Raises:
        UsageError: The network has neither gates nor self-attention.
    """
    modules = rows[0].explanations[network].gates
    if not modules:
        raise UsageError("the network has no attention module with gates to draw.")
    figure = Figure(figsize=(1.3 * len(modules) + 0.3, 2.4 * len(rows) + 0.4), layout="constrained")
    heights = [3, 2] * len(rows)
    panels = figure.subplots(2 * len(rows), len(modules), squeeze=False, height_ratios=heights)
    for line, image in enumerate(rows):
        for column, gates in enumerate(image.explanations[network].gates):
            _draw_positions(panels[2 * line, column], gates)
            _draw_channels(panels[2 * line + 1, column], gates)
    for panel, gates in zip(panels[0], modules, strict=True):
        panel.set_title(gates.module.removesuffix(".attention"), fontsize=8, parse_math=False)
    return figure


def _draw_positions(panel: Axes, gates: Gates) -> None:
    panel.set(xticks=[], yticks=[])
    if gates.spatial is not None:
        panel.imshow(gates.spatial.numpy(), cmap="gray")
        _write_range(panel, "", gates.spatial)
    elif gates.attention is not None:
        panel.imshow(gates.attention.numpy(), cmap="magma", vmin=0)
        _write_range(panel, "attention ", gates.attention)
    else:
        panel.axis("off")


def _write_range(panel: Axes, name: str, values: Tensor) -> None:
    panel.set_xlabel(f"{name}{values.min():.2f} to {values.max():.2f}", fontsize=_TICK_SIZE)


def _draw_channels(panel: Axes, gates: Gates) -> None:
    if gates.channel is None:
        panel.axis("off")
        return
    panel.plot(gates.channel.sort(descending=True).values.numpy())
    panel.tick_params(labelsize=_TICK_SIZE)
    panel.set_xticks([])
