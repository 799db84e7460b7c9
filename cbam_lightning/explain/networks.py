"""The networks to explain, loaded from checkpoints that can be compared on the same images."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F

from cbam_lightning.checks import check_positive
from cbam_lightning.errors import UsageError
from cbam_lightning.explain.evaluation_mode import evaluation_mode
from cbam_lightning.explain.gradcam import GradCAM
from cbam_lightning.models.detection.detector_registry import NetworkKind, network_kind
from cbam_lightning.models.factory import rebuild
from cbam_lightning.models.pretrained import open_checkpoint
from cbam_lightning.weights import Header
from cbam_lightning.weights.header import one_line

_COMPARED = ("size_px", "in_channels", "num_classes", "class_names")


@dataclass(frozen=True)
class ExplainedNetwork:
    """A classifier with its Grad-CAM, and what it expects of its images.

    Attributes:
        label: What people call it, such as the name of its checkpoint.
        network: From normalised images to logits.
        header: Of its checkpoint: classes, size and normalisation of the images.
        cam: Grad-CAM at the chosen layer.
    """

    label: str
    network: nn.Module
    header: Header
    cam: GradCAM

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, or their numbers if the checkpoint has no names."""
        return self.header.class_names or tuple(map(str, range(self.header.num_classes)))

    def normalise(self, images: Tensor) -> Tensor:
        """Turn uint8 images (N, C, H, W) into normalised inputs on the network's device."""
        device = next(self.network.parameters()).device
        values: Tensor = F.to_dtype(images.to(device).contiguous(), torch.float32, scale=True)
        if self.header.mean is not None and self.header.std is not None:
            values = F.normalize(values, list(self.header.mean), list(self.header.std))
        return values


def open_networks(
    sources: Sequence[str | Path],
    layer: str | None = None,
    device: torch.device | str = "cpu",
    size_px: int | None = None,
) -> list[ExplainedNetwork]:
    """Load classifiers that can be compared on the same images.

    Args:
        sources: Anything that ``create_model(weights=...)`` takes; ``LABEL=SOURCE`` sets the label.
        layer: Name of the module whose output Grad-CAM weights. Default: the last stage of each network.
        device: Where the networks run.
        size_px: Height and width of the images. Default: what the checkpoints say.

    Raises:
        UsageError: A source is not a classifier's checkpoint or does not say the size of its images, two have
            the same label, a network has no such layer or takes no images of this size, or the networks
            expect different images or classes.
    """
    if size_px is not None:
        check_positive("size_px", size_px)
    named = [split_label(str(source)) for source in sources]
    networks = [_open(label, path, layer, device, size_px) for label, path in named]
    require_comparable([(network.label, network.header) for network in networks])
    return networks


def _open(
    label: str, path: str, layer: str | None, device: torch.device | str, size_px: int | None
) -> ExplainedNetwork:
    checkpoint = open_checkpoint(path)
    header = checkpoint.header
    if (kind := network_kind(header.network)) != "classifier":
        raise UsageError(
            f"{path} is a {kind}, but the first network is a classifier; explain them separately."
        )
    size = size_px or header.size_px
    if size is None:
        raise UsageError(
            f"{path} does not say the size of the images that it was trained on; give their height and width "
            "in pixels with --size-px."
        )
    if header.size_px not in (None, size):
        message = f"{label} was trained on images of {header.size_px} px and is shown {size} px, as you ask."
        warnings.warn(message, stacklevel=3)
    network = rebuild(checkpoint, path).to(device)
    _check_size(label, network, (1, header.in_channels, size, size))
    cam = GradCAM(network, layer, (1, header.in_channels, size, size))
    return ExplainedNetwork(label, network, replace(header, size_px=size), cam)


def _check_size(label: str, network: nn.Module, shape: tuple[int, int, int, int]) -> None:
    try:
        with evaluation_mode(network), torch.no_grad():
            network(torch.zeros(shape, device=next(network.parameters()).device))
    except Exception as error:  # each network refuses a size in its own way
        reason = one_line(error)
        raise UsageError(
            f"{label} does not run on images of {shape[-1]} px: {reason}. Give another size with --size-px."
        ) from error


def split_label(source: str) -> tuple[str, str]:
    """Return label and checkpoint of ``LABEL=SOURCE``; a plain ``SOURCE`` is its own label."""
    label, equals, path = source.partition("=")
    return (label, path) if equals and not Path(source).exists() else (source, source)


def source_kind(source: str) -> NetworkKind:
    """Return the kind of network in a checkpoint, given as ``SOURCE`` or ``LABEL=SOURCE``."""
    return network_kind(open_checkpoint(split_label(source)[1]).header.network)


def require_distinct(labels: Sequence[str]) -> None:
    """Raise a ``UsageError`` if two networks have the same label."""
    if repeated := [label for label in labels if labels.count(label) > 1]:
        raise UsageError(f"two networks are called {repeated[0]!r}; rename one of them: other={repeated[0]}.")


def require_comparable(networks: Sequence[tuple[str, Header]]) -> None:
    """Check that networks, given by label and header, can be compared on the same images.

    Raises:
        UsageError: Two have the same label, or they expect different images or classes.
    """
    require_distinct([label for label, _ in networks])
    (first_label, first), *others = networks
    for label, header in others:
        for name in _COMPARED:
            expected, actual = getattr(first, name), getattr(header, name)
            if expected != actual:
                of_classifiers = network_kind(first.network) == "classifier"
                advice = " Give one for all with --size-px." if name == "size_px" and of_classifiers else ""
                raise UsageError(
                    f"{first_label} and {label} cannot be compared on the same images: {name} is "
                    f"{_brief(expected)} in the one and {_brief(actual)} in the other.{advice}"
                )


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
