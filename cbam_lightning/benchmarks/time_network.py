"""The cost of attention in a network: the time of a training step, and its saved activations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cbam_lightning.attention import create_attention
from cbam_lightning.attention.implementation import choose_compiled, fused_form
from cbam_lightning.attention.registry import option_names
from cbam_lightning.benchmarks.baselines import baselines
from cbam_lightning.benchmarks.machine import choose_device, random_tensor, set_threads
from cbam_lightning.benchmarks.measurements import Measurement, Report, collect, milliseconds
from cbam_lightning.benchmarks.memory import saved_bytes
from cbam_lightning.benchmarks.options import NetworkOptions
from cbam_lightning.benchmarks.time_attention import LAYOUTS
from cbam_lightning.benchmarks.timing import alternate, try_step
from cbam_lightning.errors import UsageError
from cbam_lightning.models.factory import create_model
from cbam_lightning.user_code.class_paths import import_class_path

PLAIN = "plain"
_NUM_CLASSES = 1000
_SEED = 0

_Builder = Callable[[], nn.Module]


def time_network(options: NetworkOptions) -> list[Report]:
    """Measure a training step of a network alternately, without attention and with each implementation of it.

    A step is forward pass, cross-entropy over 1000 classes, backward pass and an SGD step with momentum, in
    float32, on one batch of random images. All networks start from the same weights. ``authors`` and ``timm``
    are those of ``baselines``, in place of the package's own attention. Attention with a gate uses the
    sigmoid, even when it is inserted into a finished network, since all implementations have that gate.

    Returns:
        Training step in ms, and bytes saved for the backward pass, without parameters and buffers.

    Raises:
        UsageError: A name is unknown, the network does not take such images, or there is no compiler.
    """
    set_threads(options.threads)
    device = choose_device(options.device)
    compiled = choose_compiled(options.compiled, device)
    builders = _builders(options, compiled)
    shape = (options.batch_size, options.in_channels, options.size_px, options.size_px)
    images = random_tensor(shape, device)
    times: list[Measurement] = []
    memory: list[Measurement] = []
    for memory_format in dict.fromkeys(options.memory_format):
        group = f"batch {options.batch_size}, {options.size_px} px, {memory_format}"
        layout = LAYOUTS[memory_format]
        batch = images.to(memory_format=layout)
        steps = {
            name: TrainingStep(build().to(device).to(memory_format=layout), batch)
            for name, build in builders.items()
        }
        try_step(steps[PLAIN], f"images of {'x'.join(map(str, shape))} with {options.network}")
        seconds = alternate(steps, options.repeats, 1, device, f"training steps, {group}")
        times += collect(group, seconds, milliseconds)
        memory += collect(group, {name: [step.saved_bytes()] for name, step in steps.items()})
    report = partial(Report, baseline=PLAIN, setting=options.setting)
    return [
        report("network_step", f"{options.network}, training step", "ms", times),
        report("network_saved_bytes", f"{options.network}, saved for the backward pass", "bytes", memory),
    ]


class TrainingStep:
    """A training step of a network on fixed images and labels.

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
        """Run one step."""
        loss = self._loss()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def saved_bytes(self) -> int:
        """Return the bytes saved for the backward pass, without parameters and buffers."""
        return saved_bytes(self._loss, [*self.network.parameters(), *self.network.buffers()])

    def _loss(self) -> Tensor:
        return F.cross_entropy(self.network(self.images), self.labels)


def _builders(options: NetworkOptions, compiled: bool) -> dict[str, _Builder]:
    """Return a function for each network, so that only those of one memory format exist at a time."""
    builders: dict[str, _Builder] = {PLAIN: partial(_build, options.network, "none", {}, options.in_channels)}
    for attention in options.attention:
        if attention == "none":
            raise UsageError("attention 'none' is the plain network, which is always measured; leave it out.")
        forms = _forms(options.network, attention, options.in_channels, compiled)
        builders |= {f"{attention} {form}": build for form, build in forms.items()}
    return builders


def _forms(network: str, attention: str, in_channels: int, compiled: bool) -> dict[str, _Builder]:
    """Return a function for each implementation of an attention that is available here."""
    import_class_path(attention, "--attention")
    names = option_names(attention)
    options = {"gate": "sigmoid"} if "gate" in names else {}
    has_fused = "implementation" in names
    build = partial(_build, network, attention, in_channels=in_channels)
    reference = partial(build, options | ({"implementation": "reference"} if has_fused else {}))
    forms: dict[str, _Builder] = {"reference": reference}
    if compiled and has_fused and fused_form(create_attention(attention, 16, implementation="fused")):
        forms["fused"] = partial(build, options | {"implementation": "fused"})
    for form in baselines(create_attention(attention, 16)):
        forms[form] = partial(_build_with, reference, attention, form)
    order = ("authors", "reference", "fused", "timm")
    return {form: forms[form] for form in order if form in forms}


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
    """Replace every attention module of the network by another implementation."""
    network = build()
    kind = type(create_attention(attention, 16))
    for name, module in list(network.named_modules()):
        if type(module) is kind:
            network.set_submodule(name, baselines(module)[form])
    return network
