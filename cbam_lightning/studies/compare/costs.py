"""Costs of each arm's network: parameters, multiply-accumulates, step time and saved activations."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from cbam_lightning.benchmarks.detector_costs import DetectionStep, count_detector
from cbam_lightning.benchmarks.machine import choose_device
from cbam_lightning.benchmarks.timing import alternate
from cbam_lightning.benchmarks.training_step import TrainingStep
from cbam_lightning.errors import UsageError
from cbam_lightning.models.complexity import Complexity, count
from cbam_lightning.models.detection import create_detector
from cbam_lightning.models.detection.detector_network import DetectorNetwork
from cbam_lightning.models.detection.detector_registry import network_kind
from cbam_lightning.models.factory import build
from cbam_lightning.studies.compare.arms import Arm

_BUILT_FROM: dict[str, type] = {
    "network": str,
    "network_options": dict,
    "attention": str,
    "attention_options": dict,
}
_BUILT_FROM |= {"num_classes": int, "in_channels": int}
_DETECTION_PX = 300  # if a detector, which resizes images, does not name a size


@dataclass(frozen=True)
class Costs:
    """Costs of a network.

    Attributes:
        params: Number of parameters.
        macs: Multiply-accumulates for one image.
        step_ms: Median time of a training step on each device.
        saved_bytes: Activations that a step's forward pass saves for its backward pass, on the first device.
        network: Names and options of the network that was measured.
    """

    params: int
    macs: int
    step_ms: Mapping[str, float]
    saved_bytes: int
    network: Mapping[str, Any]


def measure_costs(
    arms: Sequence[Arm], batch_size: int = 32, repeats: int = 7, devices: Sequence[str] = ("cpu",)
) -> dict[str, Costs]:
    """Rebuild the network of every arm and measure it; the timings of the arms alternate.

    A step is as in ``benchmark network``: float32, cross-entropy, SGD with momentum, one batch of random
    images of the run's size; for a detector its own losses, with an object in every image.

    Args:
        arms: Arms whose runs describe their network.
        batch_size: Images in the batch.
        repeats: Measurements of each step.
        devices: Where to measure, one after the other, such as ``cpu`` and ``cuda``.

    Returns:
        The costs of each arm, by its label.

    Raises:
        UsageError: A run does not describe its network, or the network cannot be built here.
    """
    places = {name: choose_device(name) for name in devices}
    measured = [_on_device(arms, batch_size, repeats, name, place) for name, place in places.items()]
    return {
        label: replace(
            costs, step_ms={name: ms for one in measured for name, ms in one[label].step_ms.items()}
        )
        for label, costs in measured[0].items()
    }


def _on_device(
    arms: Sequence[Arm], batch_size: int, repeats: int, name: str, place: torch.device
) -> dict[str, Costs]:
    networks = described(arms)
    measured = {label: _prepare(network, batch_size, place) for label, network in networks.items()}
    steps = {label: step for label, (_, step) in measured.items()}
    seconds = alternate(steps, repeats, 1, place, f"training steps on {name}")
    return {
        label: Costs(
            *size, {name: 1e3 * statistics.median(seconds[label])}, step.saved_bytes(), networks[label]
        )
        for label, (size, step) in measured.items()
    }


def described(arms: Sequence[Arm]) -> dict[str, Mapping[str, Any]]:
    """Return names and options of the network of every arm, by its label.

    Raises:
        UsageError: A run does not describe its network.
    """
    return {arm.label: _described(arm) for arm in arms}


def _described(arm: Arm) -> Mapping[str, Any]:
    run = next(iter(arm.runs.values()))
    described = run.network
    is_complete = all(type(described.get(name)) is kind for name, kind in _BUILT_FROM.items())
    has_size = type(described.get("size_px")) is int and described["size_px"] > 0
    if not is_complete or not (has_size or network_kind(described["network"]) == "detector"):
        raise UsageError(
            f"{run.source} does not describe its network, because an early version or a module of your own "
            "made it. Its costs cannot be measured; skip them with --no-costs."
        )
    return described


def _build(described: Mapping[str, Any]) -> nn.Module:
    names = ("attention", "attention_options", "in_channels")
    options = {name: described[name] for name in names}
    if network_kind(described["network"]) == "detector":
        options |= {"num_classes": described["num_classes"] + 1, **described["network_options"]}
        return create_detector(described["network"], **options)
    options |= {"num_classes": described["num_classes"], "network_options": described["network_options"]}
    return build(described["network"], **options)


def _prepare(
    described: Mapping[str, Any], batch_size: int, device: torch.device
) -> tuple[Complexity, TrainingStep]:
    """Build a network, count it, and return a training step of it."""
    network, channels = _build(described), described["in_channels"]
    size_px = described.get("size_px") or _DETECTION_PX
    shape = (batch_size, channels, size_px, size_px)
    if isinstance(network, DetectorNetwork):
        size = count_detector(network, size_px, channels)
        return size, DetectionStep(network.to(device), torch.rand(shape, device=device))
    layout = torch.channels_last if described.get("channels_last") else torch.contiguous_format
    images = torch.randn(shape, device=device).to(memory_format=layout)
    size = count(network, size_px, channels)
    network = network.to(device, memory_format=layout)  # type: ignore[call-overload]
    return size, TrainingStep(network, images, described["num_classes"])
