"""The paper's figure: images in rows, and what each network looks at beside them, with P of the class."""

from __future__ import annotations

import re
from collections.abc import Sequence

import matplotlib
import torch
from matplotlib.figure import Figure
from torch import Tensor

from cbam_lightning.explain.gradcam import enlarge
from cbam_lightning.explain.looking import Look, Looked

COLOUR_MAP = "turbo"  # the rainbow of such figures, without jet's false edges
_OPACITY = 0.5


def draw_figure(rows: Sequence[Looked], labels: Sequence[str], class_names: Sequence[str]) -> Figure:
    """Draw images and the Grad-CAM of every network, each relative to its own maximum.

    The class that is explained and its probability P stand above each map, in red where the network would
    have said another.

    Args:
        rows: Images with the looks of every network.
        labels: Names of the networks.
        class_names: Of the classes.
    """
    columns = 1 + len(labels)
    figure = Figure(figsize=(2.1 * columns, 2.35 * len(rows) + 0.5), layout="constrained")
    panels = figure.subplots(len(rows), columns, squeeze=False)
    for panel in panels.flat:
        panel.axis("off")
    for line, looked in zip(panels, rows, strict=True):
        image = _pixels(looked.picture.image)
        line[0].imshow(image.numpy())
        label = looked.picture.label
        line[0].set_title(_short(class_names[label]) if label >= 0 else "", fontsize=9, parse_math=False)
        for panel, look in zip(line[1:], looked.looks, strict=True):
            panel.imshow(overlay(image, look.map).numpy())
            wrong = look.predicted != look.target
            panel.set_title(
                _title(look, class_names),
                fontsize=9,
                color="firebrick" if wrong else "black",
                parse_math=False,
            )
    for panel, heading in zip(panels[0], ["image", *labels], strict=True):
        panel.annotate(
            _in_lines(heading),
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


def overlay(image: Tensor, map_: Tensor) -> Tensor:
    """Lay a map over an image in colours.

    Args:
        image: (H, W, 3) in [0, 1].
        map_: (h, w), at least 0; its maximum has the last colour.
    """
    large = enlarge(map_[None], image.shape[:2])[0]
    relative = large / large.max().clamp(min=torch.finfo(large.dtype).tiny)
    colours = torch.from_numpy(matplotlib.colormaps[COLOUR_MAP](relative.numpy())[:, :, :3])
    return (1 - _OPACITY) * image + _OPACITY * colours


def _pixels(image: Tensor) -> Tensor:
    """Turn uint8 (C, H, W) into (H, W, 3) in [0, 1]."""
    return image.expand(3, -1, -1).permute(1, 2, 0) / 255


def _title(look: Look, class_names: Sequence[str]) -> str:
    said = f"\nsays {_short(class_names[look.predicted])}" if look.predicted != look.target else ""
    return f"{_short(class_names[look.target])}: P = {look.probability:.3f}{said}"


def _short(text: str, length: int = 24) -> str:
    plain = "".join(character if character.isprintable() else "?" for character in text)
    return plain if len(plain) <= length else f"{plain[: length - 1]}…"


def _in_lines(text: str, width: int = 18, most: int = 2) -> str:
    """Break a name such as ``resnet20_cbam.fashion_mnist`` where its parts meet."""
    lines = [""]
    for part in re.findall(r"[^\s._/-]*[\s._/-]?", _short(text, width * most)):
        if lines[-1] and len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines[:most])
