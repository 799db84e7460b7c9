"""The figure of the CBAM paper: images, and beside each the Grad-CAM of every network."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cbam_lightning.explain.box_drawing import draw_image
from cbam_lightning.explain.explanations import ExplainedImage, Explanation
from cbam_lightning.explain.figure_text import in_lines, shortened
from cbam_lightning.explain.gradcam import enlarge

COLOUR_MAP = "turbo"  # the usual rainbow of such figures, without the false edges of jet
_OPACITY = 0.5


def draw_figure(rows: Sequence[ExplainedImage], labels: Sequence[str], class_names: Sequence[str]) -> Figure:
    """Draw images and the Grad-CAM of every network, each map relative to its own maximum.

    The explained class and its probability P stand above each map, in red if the network predicts another
    class.

    Args:
        rows: Images with one explanation per network.
        labels: Names of the networks.
        class_names: Names of the classes.
    """
    columns = 1 + len(labels)
    figure = Figure(figsize=(2.1 * columns, 2.35 * len(rows) + 0.5), layout="constrained")
    panels = figure.subplots(len(rows), columns, squeeze=False)
    for line, row in zip(panels, rows, strict=True):
        for panel in line:
            panel.axis("off")
            draw_image(panel, row.image / 255)
        title = shortened(class_names[row.label]) if row.label >= 0 else ""
        line[0].set_title(title, fontsize=8, parse_math=False)
        for panel, explanation in zip(line[1:], row.explanations, strict=True):
            large = enlarge(explanation.map[None], row.image.shape[1:])[0].numpy()
            panel.imshow(large, cmap=COLOUR_MAP, alpha=_OPACITY, vmin=0)
            _write_title(panel, explanation, class_names)
    for panel, heading in zip(panels[0], ["image", *labels], strict=True):
        panel.annotate(
            in_lines(heading),
            (0.5, 1),
            xytext=(0, 34),  # above a title of two lines
            xycoords="axes fraction",
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=10,
            fontweight="bold",
            parse_math=False,
        )
    return figure


def _write_title(panel: Axes, explanation: Explanation, class_names: Sequence[str]) -> None:
    title = f"{shortened(class_names[explanation.target])}: P = {explanation.probability:.3f}"
    wrong = explanation.predicted != explanation.target
    if wrong:
        title += f"\nsays {shortened(class_names[explanation.predicted])}"
    panel.set_title(title, fontsize=8, color="firebrick" if wrong else "black", parse_math=False)
