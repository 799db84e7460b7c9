"""What the network of each arm costs: parameters, multiply-accumulates, time of a step, memory it keeps."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cbam_lightning.benchmarks import alternate, choose_device
from cbam_lightning.benchmarks.detection import DetectionStep, count_detector
from cbam_lightning.benchmarks.network import TrainingStep
from cbam_lightning.errors import UsageError
from cbam_lightning.models.complexity import Complexity, count
from cbam_lightning.models.detection import create_detector
from cbam_lightning.models.detection.detector_network import DetectorNetwork
from cbam_lightning.models.detection.detector_registry import DETECTORS
from cbam_lightning.models.factory import build
from cbam_lightning.studies.compare.arms import Arm

_DETECTION_PX = 300  # of images that have no size of their own; detectors resize them


@dataclass(frozen=True)
class Costs:
    """What a network costs.

    Attributes:
        params: Number of parameters.
        macs: Multiply-accumulates for one image.
        step_ms: Median time of a training step.
        kept_bytes: Activations that a step's forward pass keeps for its backward pass.
    """

    params: int
    macs: int
    step_ms: float
    kept_bytes: int


def measure_costs(
    arms: Sequence[Arm], batch_size: int = 32, repeats: int = 7, device: str = "cpu"
) -> dict[str, Costs]:
    """Build the network of every arm once more and measure it; times are taken in turns.

    A step is as in ``benchmark network``: float32, cross-entropy, SGD with momentum, one batch of random
    images of the size that the run had; for a detector its losses, and an object in every image.

    Args:
        arms: Whose runs know their network.
        batch_size: Images in the batch.
        repeats: Measurements of each step.
        device: Where to measure, such as ``cpu`` or ``cuda``.

    Returns:
        The costs of each arm, by its label.

    Raises:
        UsageError: A run does not say what its network was, or that network cannot be built here.
    """
    place = choose_device(device)
    built = {arm.label: _described(arm) for arm in arms}
    steps = {label: _step(network, batch_size, place) for label, network in built.items()}
    seconds = alternate(steps, repeats, 1, place, "training steps")
    costs = {}
    for label, step in steps.items():
        size = _count(built[label])
        costs[label] = Costs(*size, 1e3 * statistics.median(seconds[label]), step.kept_bytes())
    return costs


def _described(arm: Arm) -> Mapping[str, Any]:
    run = next(iter(arm.runs.values()))
    if not run.network.get("size_px") and not _detects(run.network):
        message = (
            f"{run.source} does not say what its network was, as no run of an earlier version does, so its "
            "costs cannot be measured; leave them out with --no-costs."
        )
        raise UsageError(message)
    return run.network


def _detects(described: Mapping[str, Any]) -> bool:
    return described.get("network") in DETECTORS


def _count(described: Mapping[str, Any]) -> Complexity:
    size_px, in_channels = described["size_px"] or _DETECTION_PX, described["in_channels"]
    if _detects(described):
        return count_detector(_detector(described), size_px, in_channels)
    return count(_network(described), size_px, in_channels)


def _network(described: Mapping[str, Any]) -> nn.Module:
    return build(
        described["network"],
        described["attention"],
        described["attention_options"],
        described["network_options"],
        described["num_classes"],
        described["in_channels"],
    )


def _detector(described: Mapping[str, Any]) -> DetectorNetwork:
    return create_detector(
        described["network"],
        attention=described["attention"],
        attention_options=described["attention_options"],
        num_classes=described["num_classes"] + 1,
        in_channels=described["in_channels"],
        **described["network_options"],
    )


def _step(described: Mapping[str, Any], batch_size: int, device: torch.device) -> TrainingStep:
    size_px = described["size_px"] or _DETECTION_PX
    shape = (batch_size, described["in_channels"], size_px, size_px)
    if _detects(described):
        return DetectionStep(_detector(described).to(device), torch.rand(shape, device=device))
    layout = torch.channels_last if described.get("channels_last") else torch.contiguous_format
    images = torch.randn(shape, device=device)
    network = _network(described).to(device, memory_format=layout)  # type: ignore[call-overload]
    return TrainingStep(network, images.to(memory_format=layout), described["num_classes"])
