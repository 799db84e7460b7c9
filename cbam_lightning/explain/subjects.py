"""The networks that are looked into, side by side on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F

from cbam_lightning.errors import UsageError
from cbam_lightning.explain.gates import Gates, record_gates
from cbam_lightning.explain.gradcam import GradCAM
from cbam_lightning.models import open_checkpoint
from cbam_lightning.models.detection.registry import DETECTORS
from cbam_lightning.models.factory import rebuild
from cbam_lightning.weights import Header

_SAME = ("size_px", "in_channels", "num_classes", "class_names")


class View(NamedTuple):
    """What a network made of a batch.

    Attributes:
        maps: Grad-CAM of the targets, float32 (N, h, w), at least 0.
        probabilities: (N, K).
        targets: int64 (N,).
        gates: In the order of the network.
    """

    maps: Tensor
    probabilities: Tensor
    targets: Tensor
    gates: list[Gates]


@dataclass(frozen=True)
class Subject:
    """A network and what it needs to know of its images.

    Attributes:
        label: What people call it, such as the name of its checkpoint.
        network: From normalised images to logits.
        header: Of its checkpoint: classes, size and normalisation of the images.
        cam: Grad-CAM at the layer that was chosen.
    """

    label: str
    network: nn.Module
    header: Header
    cam: GradCAM

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, or their numbers where the checkpoint has none."""
        return self.header.class_names or tuple(map(str, range(self.header.num_classes)))

    def normalise(self, images: Tensor) -> Tensor:
        """Turn uint8 images (N, C, H, W) into what the network was trained on, on its device."""
        device = next(self.network.parameters()).device
        values: Tensor = F.to_dtype(images.to(device).contiguous(), torch.float32, scale=True)
        if self.header.mean is None or self.header.std is None:
            return values
        normalised: Tensor = F.normalize(values, list(self.header.mean), list(self.header.std))
        return normalised

    def view(self, images: Tensor, targets: Tensor) -> View:
        """Look at a batch.

        Args:
            images: Normalised, as from ``normalise``.
            targets: int64 (N,), -1 for the predicted class.
        """
        with record_gates(self.network) as gates:
            found = self.cam(images, targets)
        return View(found.maps.float(), found.logits.float().softmax(1), found.targets, gates)


def open_subjects(
    sources: Sequence[str | Path], layer: str | None = None, device: torch.device | str = "cpu"
) -> list[Subject]:
    """Load checkpoints that can be compared on the same images.

    Args:
        sources: Whatever ``create_model(weights=...)`` takes; ``LABEL=SOURCE`` gives it another label.
        layer: Name of the module whose output Grad-CAM weights; left out, the last stage of each.
        device: Where the networks run.

    Raises:
        UsageError: A source is no checkpoint, two have the same label, a network has no such layer, or they
            differ in the images or classes that they are for.
    """
    subjects = [
        _open(label, path, layer, device) for label, path in (split_label(str(source)) for source in sources)
    ]
    require_comparable([(subject.label, subject.header) for subject in subjects])
    return subjects


def split_label(source: str) -> tuple[str, str]:
    """Return the label and the checkpoint of ``LABEL=SOURCE``, or of ``SOURCE``, which is its own label."""
    label, equals, path = source.partition("=")
    return (label, path) if equals and not Path(source).exists() else (source, source)


def require_comparable(networks: Sequence[tuple[str, Header]]) -> None:
    """Refuse networks, given as labels and headers, that the same images are not for.

    Raises:
        UsageError: Two have the same label, or they differ in the images or classes that they are for.
    """
    labels = [label for label, _ in networks]
    if twice := [label for label in labels if labels.count(label) > 1]:
        message = f"two networks are called {twice[0]!r}; give one another label, as in other={twice[0]}."
        raise UsageError(message)
    (first_label, first), *others = networks
    for label, other in others:
        for name in _SAME:
            ours, theirs = getattr(first, name), getattr(other, name)
            if ours != theirs:
                message = (
                    f"{first_label} and {label} cannot be compared on the same images: {name} is "
                    f"{_brief(ours)} in the one and {_brief(theirs)} in the other."
                )
                raise UsageError(message)


def _open(label: str, path: str, layer: str | None, device: torch.device | str) -> Subject:
    checkpoint = open_checkpoint(path)
    header = checkpoint.header
    if header.network in DETECTORS:
        message = f"{path} is a detector, and the first network is none; explain them one after the other."
        raise UsageError(message)
    if header.size_px is None:
        message = f"{path} does not say the size of its images; write it anew with `weights export`."
        raise UsageError(message)
    network = rebuild(checkpoint, path).to(device)
    cam = GradCAM(network, layer, (1, header.in_channels, header.size_px, header.size_px))
    return Subject(label, network, header, cam)


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
