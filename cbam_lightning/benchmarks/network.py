"""What attention costs in a network: the time of a training step, and the activations that it keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cbam_lightning.attention import create_attention
from cbam_lightning.attention.implementation import choose_compiled
from cbam_lightning.attention.registry import option_names
from cbam_lightning.benchmarks import Report, Row, alternate, choose_device, saved_bytes
from cbam_lightning.benchmarks.attention import MEMORY_FORMATS
from cbam_lightning.benchmarks.baselines import baselines
from cbam_lightning.checks import check_choice, check_positive
from cbam_lightning.errors import UsageError
from cbam_lightning.models.factory import create_model
from cbam_lightning.user_code.class_paths import import_class_path

PLAIN = "plain"
_NUM_CLASSES = 1000
_SEED = 0

_Builder = Callable[[], nn.Module]


def benchmark_network(
    network: str = "resnet50",
    attentions: Sequence[str] = ("cbam",),
    batch_size: int = 8,
    size_px: int = 224,
    in_channels: int = 3,
    memory_formats: Sequence[str] = ("channels_first",),
    repeats: int = 7,
    compiled: bool | None = None,
    device: str = "cpu",
) -> list[Report]:
    """Measure a training step of a network without attention and with each implementation of it, alternating.

    A step is forward pass, cross-entropy over 1000 classes, backward pass and an SGD step with momentum, in
    float32, on one batch of random images. All networks start from the same weights. ``authors`` and ``timm``
    are those of ``baselines``, in the places of ours. Attention that has a gate has the sigmoid, also where
    it is inserted, since that is the gate of all implementations.

    Args:
        network: Name for ``create_model``.
        attentions: Names for ``create_attention``, with their default options.
        batch_size: Images in the batch.
        size_px: Height and width of the images.
        in_channels: Number of channels of the images.
        memory_formats: ``channels_first``, ``channels_last`` or both, for images and weights.
        repeats: Measurements of each network.
        compiled: Whether attention that is ``fused`` takes part; None for where there is a compiler.
        device: Where to measure, such as ``cpu`` or ``cuda``.

    Returns:
        Training step in ms, and bytes kept for the backward pass: those of activations, without parameters
        and buffers.

    Raises:
        UsageError: An unknown name, a number below 1, images that do not suit the network, or no compiler.
    """
    numbers = {"batch_size": batch_size, "size_px": size_px, "in_channels": in_channels, "repeats": repeats}
    for option, value in numbers.items():
        check_positive(option, value)
    for memory_format in memory_formats:
        check_choice("memory_format", memory_format, MEMORY_FORMATS)
    place = choose_device(device)
    builders = _builders(network, attentions, in_channels, choose_compiled(compiled, place))
    images = _images((batch_size, in_channels, size_px, size_px), place)
    steps, kept = [], []
    for memory_format in dict.fromkeys(memory_formats):
        group = f"batch {batch_size}, {size_px} px, {memory_format}"
        trained = _trained(network, builders, images, memory_format)
        seconds = alternate(trained, repeats, 1, place, f"training steps, {group}")
        steps += [Row(group, name, [1e3 * value for value in values]) for name, values in seconds.items()]
        kept += [Row(group, name, [step.kept_bytes()]) for name, step in trained.items()]
    setting = {"repeats": repeats, "dtype": "float32", "device": device}
    kept_title = f"{network}, kept for the backward pass"
    return [
        Report("network_step", f"{network}, training step", "ms", steps, PLAIN, setting=setting),
        Report("network_saved_bytes", kept_title, "bytes", kept, PLAIN, setting=setting),
    ]


class TrainingStep:
    """A training step of a network, always with the same images and labels.

    Args:
        network: Maps images to logits.
        images: (N, C, H, W).
        num_classes: Number of logits.
    """

    def __init__(self, network: nn.Module, images: Tensor, num_classes: int = _NUM_CLASSES) -> None:
        self.network = network.train()
        self.images = images
        self.labels = torch.arange(len(images), device=images.device) % num_classes
        self.optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)

    def __call__(self) -> None:
        """Make one step."""
        loss = self._loss()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def kept_bytes(self) -> int:
        """Return what the forward pass keeps for the backward pass, without parameters and buffers."""
        return saved_bytes(self._loss, [*self.network.parameters(), *self.network.buffers()])

    def _loss(self) -> Tensor:
        return F.cross_entropy(self.network(self.images), self.labels)


def _builders(
    network: str, attentions: Sequence[str], in_channels: int, compiled: bool
) -> dict[str, _Builder]:
    """Name a function for every network, so that those of only one memory format are alive at a time."""
    builders: dict[str, _Builder] = {PLAIN: partial(_build, network, "none", {}, in_channels)}
    for attention in attentions:
        if attention == "none":
            message = "attention 'none' is the plain network, which is measured anyway; name another one."
            raise UsageError(message)
        for form, build in _forms(network, attention, in_channels, compiled).items():
            builders[f"{attention} {form}"] = build
    return builders


def _forms(network: str, attention: str, in_channels: int, compiled: bool) -> dict[str, _Builder]:
    import_class_path(attention, "--attention")
    names = option_names(attention)
    options = {"gate": "sigmoid"} if "gate" in names else {}
    reference = options | ({"implementation": "reference"} if "implementation" in names else {})
    build = partial(_build, network, attention, reference, in_channels)
    forms: dict[str, _Builder] = {
        "authors": partial(_build_with, build, attention, "authors"),
        "reference": build,
    }
    if compiled and "implementation" in names:
        forms["fused"] = partial(
            _build, network, attention, options | {"implementation": "fused"}, in_channels
        )
    forms["timm"] = partial(_build_with, build, attention, "timm")
    there_are = {"reference", "fused", *baselines(create_attention(attention, 16))}
    return {form: build for form, build in forms.items() if form in there_are}


def _build(network: str, attention: str, options: Mapping[str, Any], in_channels: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(_SEED)
        return create_model(
            network,
            attention=attention,
            attention_options=options,
            num_classes=_NUM_CLASSES,
            in_channels=in_channels,
        )


def _build_with(build: _Builder, attention: str, form: str) -> nn.Module:
    """Put another form of the attention in the place of every one that is ours."""
    network = build()
    kind = type(create_attention(attention, 16))
    for name, module in list(network.named_modules()):
        if type(module) is kind:
            network.set_submodule(name, baselines(module)[form])
    return network


def _images(shape: tuple[int, int, int, int], device: torch.device) -> Tensor:
    try:
        return torch.randn(shape, device=device)
    except RuntimeError as error:
        message = f"images of {shape} do not fit into the memory of {device}; give a smaller batch or size."
        raise UsageError(message) from error


def _trained(
    network: str, builders: Mapping[str, _Builder], images: Tensor, memory_format: str
) -> dict[str, TrainingStep]:
    layout = MEMORY_FORMATS[memory_format]
    images = images.to(memory_format=layout)
    trained = {
        name: TrainingStep(build().to(images.device).to(memory_format=layout), images)
        for name, build in builders.items()
    }
    try:
        trained[PLAIN]()
    except (RuntimeError, ValueError) as error:
        message = f"{network} makes no step on images {tuple(images.shape)}: {error}. Give other sizes."
        raise UsageError(message) from error
    return trained
