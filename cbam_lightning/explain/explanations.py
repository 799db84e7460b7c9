"""Explain images with several networks: prediction, Grad-CAM, gates and how faithful the map is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cbam_lightning.errors import UsageError
from cbam_lightning.explain.faithfulness import area_under, extent, measure_curves, share_inside
from cbam_lightning.explain.gates import Gates, record_gates
from cbam_lightning.explain.gradcam import enlarge
from cbam_lightning.explain.networks import ExplainedNetwork


@dataclass(frozen=True)
class InputImage:
    """An image to explain.

    Attributes:
        name: Identifies the image to a person, such as a path.
        image: uint8 (C, H, W).
        label: Its class, or -1 if unknown.
        mask: bool (H, W), true on the object, if known.
        unmasked: Why there is no mask, where masks were asked for.

    Raises:
        UsageError: The mask has another height or width than the image.
    """

    name: str
    image: Tensor
    label: int = -1
    mask: Tensor | None = None
    unmasked: str | None = None

    def __post_init__(self) -> None:
        if self.mask is not None and self.mask.shape != self.image.shape[1:]:
            raise UsageError(
                f"the mask of {self.name!r} has the shape {tuple(self.mask.shape)}, and its image "
                f"{tuple(self.image.shape[1:])}; give a mask of the image's height and width."
            )


@dataclass(frozen=True)
class Explanation:
    """One network's view of one image.

    Attributes:
        target: The explained class.
        probability: Of the target.
        predicted: The class with the largest probability.
        confidence: Probability of the predicted class.
        map: Grad-CAM, (h, w), at least 0.
        gates: One per attention module; channel (C,), spatial and attention (h, w).
        deletion: Area under the deletion curve, smaller is better; ``None`` if not measured.
        insertion: Area under the insertion curve, larger is better; ``None`` if not measured.
        inside: Share of the map inside the mask; ``None`` without a mask, if the mask holds no object, or if
            the map is 0 everywhere.
        extent: Share of the image where the map is above half its maximum.
    """

    target: int
    probability: float
    predicted: int
    confidence: float
    map: Tensor
    gates: tuple[Gates, ...] = ()
    deletion: float | None = None
    insertion: float | None = None
    inside: float | None = None
    extent: float | None = None


@dataclass(frozen=True)
class ExplainedImage(InputImage):
    """An image with one explanation per network, in the order of the networks."""

    explanations: tuple[Explanation, ...] = ()


def explain_images(
    networks: Sequence[ExplainedNetwork],
    images: Sequence[InputImage],
    target: int | None = None,
    steps: int = 0,
) -> list[ExplainedImage]:
    """Explain a batch of images with every network.

    Args:
        networks: At least one.
        images: Of equal size.
        target: The class to explain; -1 for the class that each network predicts. Default: the label of each
            image, or the predicted class if there is no label.
        steps: Number of steps of the deletion and insertion curves; 0 skips them.
    """
    pixels = torch.stack([image.image for image in images])
    targets = torch.tensor([image.label if target is None else target for image in images])
    columns = [_explain(network, pixels, targets, images, steps) for network in networks]
    return [
        ExplainedImage(**vars(image), explanations=tuple(explanations))
        for image, *explanations in zip(images, *columns, strict=True)
    ]


def _explain(
    network: ExplainedNetwork, pixels: Tensor, targets: Tensor, images: Sequence[InputImage], steps: int
) -> list[Explanation]:
    x = network.normalise(pixels)  # (N, C, H, W)
    with record_gates(network.network) as gates:
        output = network.cam(x, targets)
    maps, probabilities = output.maps.float(), output.logits.float().softmax(1)  # (N, h, w), (N, K)
    confidences, predicted = probabilities.max(1)
    large = enlarge(maps, pixels.shape[2:])  # (N, H, W)
    fields: dict[str, Sequence[Any]] = {
        "target": output.targets.tolist(),
        "probability": probabilities.gather(1, output.targets[:, None])[:, 0].tolist(),
        "predicted": predicted.tolist(),
        "confidence": confidences.tolist(),
        "map": maps.cpu().unbind(),
        "gates": [tuple(one.of_image(i) for one in gates) for i in range(len(pixels))],
        "inside": _inside(large.cpu(), images),
        "extent": extent(large).tolist(),
    }
    if steps:
        curves = measure_curves(network.network, x, large, output.targets, steps)
        fields["deletion"] = area_under(curves.deletion).tolist()
        fields["insertion"] = area_under(curves.insertion).tolist()
    rows = zip(*fields.values(), strict=True)
    return [Explanation(**dict(zip(fields, row, strict=True))) for row in rows]


def _inside(maps: Tensor, images: Sequence[InputImage]) -> list[float | None]:
    """Return the share of each map (H, W) inside its mask."""
    shares = [
        None if image.mask is None else float(share_inside(map_[None], image.mask[None]))
        for map_, image in zip(maps, images, strict=True)
    ]
    return [None if share is None or math.isnan(share) else share for share in shares]
