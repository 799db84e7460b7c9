"""What several networks make of the same images, image by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from cbam_lightning.explain.faithfulness import area_under, extent, measure_curves, share_inside
from cbam_lightning.explain.gates import Gates
from cbam_lightning.explain.gradcam import enlarge
from cbam_lightning.explain.subjects import Subject


@dataclass(frozen=True)
class Picture:
    """An image to look at.

    Attributes:
        name: By which a person finds it again.
        image: uint8 (C, H, W).
        label: Its class, or -1 where it is unknown.
        mask: bool (H, W), where the object is, if that is known.
    """

    name: str
    image: Tensor
    label: int = -1
    mask: Tensor | None = None


@dataclass(frozen=True)
class Look:
    """What one network made of one image.

    Attributes:
        target: The class that is explained.
        probability: Of the target.
        predicted: The class with the largest probability.
        confidence: Of the predicted class.
        map: Grad-CAM, (h, w), at least 0.
        gates: One for each attention module; channel (C,), spatial (h, w).
        deletion: Area under the deletion curve, smaller is better; ``None`` if it was not measured.
        insertion: Area under the insertion curve, larger is better.
        inside: Share of the map inside the mask, if there is one.
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
class Looked:
    """An image, and what every network made of it, in the order of the networks."""

    picture: Picture
    looks: tuple[Look, ...]


def look(
    subjects: Sequence[Subject], pictures: Sequence[Picture], target: int | None = None, steps: int = 0
) -> list[Looked]:
    """Look at a batch of images with every network.

    Args:
        subjects: The networks.
        pictures: Of one size.
        target: The class to explain, -1 for the one that each network predicts; left out, the label of each
            image, or where there is none, the predicted class.
        steps: Of the deletion and insertion curves; 0 leaves them out.
    """
    images = torch.stack([picture.image for picture in pictures])
    targets = torch.tensor([picture.label if target is None else target for picture in pictures])
    columns = [_looks(subject, images, targets, pictures, steps) for subject in subjects]
    return [Looked(picture, tuple(looks)) for picture, *looks in zip(pictures, *columns, strict=True)]


def _looks(
    subject: Subject, images: Tensor, targets: Tensor, pictures: Sequence[Picture], steps: int
) -> list[Look]:
    normalised = subject.normalise(images)
    view = subject.view(normalised, targets)
    large = enlarge(view.maps, images.shape[2:])
    measured: dict[str, list[float | None]] = {"inside": _inside(large.cpu(), pictures)}
    if steps:
        curves = measure_curves(subject.network, normalised, large, view.targets, steps)
        measured["deletion"] = area_under(curves.deletion).tolist()
        measured["insertion"] = area_under(curves.insertion).tolist()
    extents = extent(large).tolist()
    confidences, predicted = view.probabilities.max(1)
    chosen = view.probabilities.gather(1, view.targets[:, None])[:, 0]
    return [
        Look(
            target=int(view.targets[i]),
            probability=float(chosen[i]),
            predicted=int(predicted[i]),
            confidence=float(confidences[i]),
            map=view.maps[i].cpu(),
            gates=tuple(_of_one(gates, i) for gates in view.gates),
            extent=extents[i],
            **{name: values[i] for name, values in measured.items()},
        )
        for i in range(len(images))
    ]


def _inside(maps: Tensor, pictures: Sequence[Picture]) -> list[float | None]:
    """Return the share of each map inside its mask; nothing where there is no mask, or no map."""
    shares: list[float | None] = []
    for one, picture in zip(maps, pictures, strict=True):
        known = picture.mask is not None and bool(one.any())
        shares.append(float(share_inside(one[None], cast(Tensor, picture.mask)[None])) if known else None)
    return shares


def _of_one(gates: Gates, index: int) -> Gates:
    channel, spatial = gates.channel, gates.spatial
    return Gates(
        gates.module,
        None if channel is None else channel[index].float().cpu(),
        None if spatial is None else spatial[index].float().cpu(),
    )
