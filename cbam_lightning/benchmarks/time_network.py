"""The cost of attention in a network: the time of a training step, and its saved activations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import nn
from torch.backends import cudnn

from cbam_lightning.attention import create_attention
from cbam_lightning.attention.implementation import choose_compiled, fused_form
from cbam_lightning.attention.registry import option_defaults, option_names
from cbam_lightning.benchmarks.baselines import baselines
from cbam_lightning.benchmarks.clocks import first_call_seconds
from cbam_lightning.benchmarks.compiling import alone_compiled, choose_modes
from cbam_lightning.benchmarks.device_figures import DEVICE_FIGURES, device_figures
from cbam_lightning.benchmarks.machine import LAYOUTS, choose_device, random_tensor, set_threads
from cbam_lightning.benchmarks.measurements import Measurement, Report, collect, milliseconds
from cbam_lightning.benchmarks.options import COMPILED, CompileMode, NetworkOptions
from cbam_lightning.benchmarks.timing import alternate, try_step
from cbam_lightning.benchmarks.training_step import NUM_CLASSES, TrainingStep
from cbam_lightning.errors import UsageError
from cbam_lightning.models.factory import create_model
from cbam_lightning.user_code.class_paths import import_class_path

PLAIN, FUSED = "plain", "fused"
_SEED = 0
# Of each report: title, unit, and what the others are compared with.
_KINDS: dict[str, tuple[str, str, str | None]] = {
    "step": ("training step", "ms", PLAIN),
    **{kind: (f"training step, {title}", unit, PLAIN) for kind, (title, unit) in DEVICE_FIGURES.items()},
    "saved_bytes": ("saved for the backward pass", "bytes", PLAIN),
    "first_step": ("first training step, with compilation", "s", PLAIN),
}

_Builder = Callable[[], nn.Module]


def time_network(options: NetworkOptions) -> list[Report]:
    """Measure a training step of a network alternately, without attention and with each implementation of it.

    A step is forward pass, cross-entropy over 1000 classes, backward pass and an SGD step with momentum, on
    one batch of random images. All networks start from the same weights. ``authors`` and ``timm`` are those
    of ``baselines``, in place of the package's own attention. Attention has its published gate, even
    when it is inserted into a finished network, since all implementations have that gate. Networks that are
    compiled as a whole are a group of their own, beside the compiled plain network; on a CPU fused attention
    is not among them, because there the reference runs within ``torch.compile``.

    Returns:
        Training step in ms; on a GPU the ``DEVICE_FIGURES``, elsewhere the bytes saved for the backward pass,
        without parameters and buffers; and, if networks are compiled, the first step in s.

    Raises:
        UsageError: A name is unknown, the network does not take such images, there is no compiler, or no
            CUDA graphs.
    """
    set_threads(options.threads)
    device = choose_device(options.device)
    compiled = choose_compiled(options.compiled, device)
    modes = choose_modes(options.compile_mode, device)
    builders = _builders(options, compiled)
    shape = (options.batch_size, options.in_channels, options.size_px, options.size_px)
    images = random_tensor(shape, device)
    rows: dict[str, list[Measurement]] = {kind: [] for kind in _KINDS}
    with cudnn.flags(enabled=True, benchmark=True):  # as for any training on images of one size
        for memory_format, mode in product(dict.fromkeys(options.memory_format), (None, *modes)):
            layout = LAYOUTS[memory_format]
            batch = images.to(memory_format=layout)
            steps = {
                name: TrainingStep(
                    build().to(device).to(memory_format=layout),
                    batch,
                    precision=options.precision,
                    compile_mode=mode,
                )
                for name, build in builders.items()
                if mode is None or device.type != "cpu" or not name.endswith(f" {FUSED}")
            }
            group = f"batch {options.batch_size}, {options.size_px} px, {memory_format}"
            with alone_compiled() if mode else nullcontext():
                found = _measure(f"{group}, {COMPILED[mode]}" if mode else group, steps, options, mode)
            for kind, measured in found.items():
                rows[kind] += measured
    report = partial(Report, setting=options.setting)
    return [
        report(f"network_{kind}", f"{options.network}, {title}", unit, rows[kind], base)
        for kind, (title, unit, base) in _KINDS.items()
        if rows[kind]
    ]


def _measure(
    group: str, steps: Mapping[str, TrainingStep], options: NetworkOptions, mode: CompileMode | None
) -> dict[str, list[Measurement]]:
    plain = steps[PLAIN]
    device, sizes = plain.images.device, "x".join(map(str, plain.images.shape))
    first = {}
    if mode is None:
        try_step(plain, f"images of {sizes} with {options.network}")
    else:
        first = {name: [first_call_seconds(step, device)] for name, step in steps.items()}
    warmup = 1 if device.type == "cpu" else 5  # kernels are chosen, and CUDA graphs recorded
    seconds = alternate(steps, options.repeats, warmup, device, f"training steps, {group}")
    found = device_figures(group, steps, device, options.repeats, with_graphs=mode == "reduce-overhead")
    if not found:
        found["saved_bytes"] = collect(group, {name: [step.saved_bytes()] for name, step in steps.items()})
    return {"step": collect(group, seconds, milliseconds), **found, "first_step": collect(group, first)}


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
    options = {key: value for key, value in option_defaults(attention).items() if key == "gate"}
    has_fused = "implementation" in names
    build = partial(_build, network, attention, in_channels=in_channels)
    reference = partial(build, options | ({"implementation": "reference"} if has_fused else {}))
    forms: dict[str, _Builder] = {"reference": reference}
    if compiled and has_fused and fused_form(create_attention(attention, 16, implementation="fused")):
        forms[FUSED] = partial(build, options | {"implementation": "fused"})
    for form in baselines(create_attention(attention, 16)):
        forms[form] = partial(_build_with, reference, attention, form)
    order = ("authors", "reference", FUSED, "timm")
    return {form: forms[form] for form in order if form in forms}


def _build(network: str, attention: str, options: Mapping[str, Any], in_channels: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(_SEED)
        return create_model(
            network,
            attention=attention,
            attention_options=options,
            num_classes=NUM_CLASSES,
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
