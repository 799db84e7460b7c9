"""The cost of attention compared with copying its input: time, and memory saved for the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from cbam_lightning.attention.implementation import choose_compiled, fused_form
from cbam_lightning.attention.registry import create_attention, option_names
from cbam_lightning.benchmarks.baselines import baselines
from cbam_lightning.benchmarks.clocks import event_clock, first_call_seconds
from cbam_lightning.benchmarks.device_figures import DEVICE_FIGURES, device_figures
from cbam_lightning.benchmarks.machine import (
    LAYOUTS,
    PRECISIONS,
    autocast,
    choose_device,
    random_tensor,
    set_threads,
)
from cbam_lightning.benchmarks.measurements import Measurement, Report, collect, milliseconds
from cbam_lightning.benchmarks.memory import saved_bytes
from cbam_lightning.benchmarks.options import AttentionOptions, Precision
from cbam_lightning.benchmarks.timing import alternate, try_step
from cbam_lightning.errors import UsageError
from cbam_lightning.user_code.class_paths import import_class_path

COPY, ONE_MAP, REFERENCE = "copy", "one map", "reference"
COMPILED = ("fused", "timm compiled")


def time_attention(options: AttentionOptions) -> list[Report]:
    """Measure all implementations of an attention module alternately, in training mode.

    ``copy``, the unit of both times, is one ``x.clone()``, which reads and writes a feature map once. With
    a precision of 16 bits, the map has it, and the module runs under autocast. On a CUDA device the times are
    those between two events, with empty caches.
    ``authors`` and ``timm`` are those of ``baselines``. Gradients are computed for the input and all
    parameters, and not accumulated. The first step is the first call of a compiled module, after
    ``torch.compiler.reset()``; torch's cache on disk may contain what an earlier run compiled.

    Returns:
        Forward in ms, forward + backward in ms, on a GPU the ``DEVICE_FIGURES`` of both passes, bytes saved
        for the backward pass, and, if anything is compiled, the first step in s.

    Raises:
        UsageError: The name, a shape or the device is invalid, or there is no compiler.
    """
    sizes = {shape: parse_shape(shape) for shape in options.shapes}
    set_threads(options.threads)
    device = choose_device(options.device)
    compiled = choose_compiled(options.compiled, device)
    kinds: dict[str, tuple[str, str, str | None]] = {
        "forward": ("forward", "ms", COPY),
        "forward_backward": ("forward + backward", "ms", COPY),
        **{kind: (f"forward + backward, {t}", unit, REFERENCE) for kind, (t, unit) in DEVICE_FIGURES.items()},
        "saved_bytes": ("saved for the backward pass", "bytes", ONE_MAP),
        "first_step": ("first forward + backward, with compilation", "s", None),
    }
    rows: dict[str, list[Measurement]] = {kind: [] for kind in kinds}
    for shape, size in sizes.items():
        for memory_format in dict.fromkeys(options.memory_format):
            if compiled:
                torch.compiler.reset()  # no shape is a recompilation after an earlier one
            layout = LAYOUTS[memory_format]
            x = random_tensor(size, device).to(PRECISIONS[options.precision], memory_format=layout)
            modules = implementations(options.name, size[1], compiled)
            for module in modules.values():
                module.to(device, torch.float32).to(memory_format=layout)
            measured = _measure(f"{shape} {memory_format}", modules, x.requires_grad_(), options)
            for kind, found in measured.items():
                rows[kind] += found
    report = partial(Report, setting=options.setting)
    return [
        report(f"attention_{kind}", f"{options.name}, {title}", unit, rows[kind], baseline)
        for kind, (title, unit, baseline) in kinds.items()
        if rows[kind]
    ]


def implementations(name: str, channels: int, compiled: bool) -> dict[str, nn.Module]:
    """Return all implementations of an attention module that are available here, in training mode.

    Those of this package have the same random parameters. None of these is 0, as the weight of CBAM's spatial
    BatchNorm is initially, which would make half of the gradients 0.

    Args:
        name: One of ``list_attention()``.
        channels: C, the number of channels of the input.
        compiled: Whether to include compiled implementations.

    Raises:
        UsageError: The name is unknown.
    """
    import_class_path(name, "the attention")
    with_choice = "implementation" in option_names(name)
    reference = create_attention(name, channels, **({"implementation": "reference"} if with_choice else {}))
    for parameter in reference.parameters():
        nn.init.normal_(parameter, std=0.1)
    others = baselines(reference)
    found = {"authors": others["authors"]} if "authors" in others else {}
    found["reference"] = reference
    if compiled and with_choice:
        fused = create_attention(name, channels, implementation="fused")
        fused.load_state_dict(reference.state_dict())
        found |= {"fused": fused} if fused_form(fused) else {}
    if "timm" in others:
        found["timm"] = others["timm"]
        if compiled:
            found["timm compiled"] = cast("nn.Module", torch.compile(others["timm"], dynamic=False))
    return found


def parse_shape(text: str) -> tuple[int, int, int, int]:
    """Return the four numbers of a shape such as ``16x256x56x56``.

    Raises:
        UsageError: The text is not four whole numbers of at least 1.
    """
    parts = text.split("x")
    if len(parts) != 4 or not all(part.isdecimal() and int(part) for part in parts):
        raise UsageError(
            f"shape is {text!r}; give NxCxHxW, four whole numbers of at least 1, such as 16x256x56x56."
        )
    n, c, h, w = map(int, parts)
    return n, c, h, w


def _measure(
    group: str, modules: dict[str, nn.Module], x: Tensor, options: AttentionOptions
) -> dict[str, list[Measurement]]:
    gradient, repeats = torch.randn_like(x), options.repeats
    copy = x.detach().clone
    forwards = {name: partial(_forward, module, x, options.precision) for name, module in modules.items()}
    steps = {
        name: partial(_step, forwards[name], [x, *module.parameters()], gradient)
        for name, module in modules.items()
    }
    try_step(steps[REFERENCE], group)
    first = {name: [first_call_seconds(step, x.device)] for name, step in steps.items() if name in COMPILED}
    time = partial(alternate, repeats=repeats, warmup=2, device=x.device, clock=event_clock)
    forward = time({COPY: copy, **forwards}, description=f"forward, {group}")
    step = time({COPY: copy, **steps}, description=f"forward + backward, {group}")
    saved = {
        name: [saved_bytes(forwards[name], [*module.parameters(), *module.buffers()])]
        for name, module in modules.items()
    }
    return {
        "forward": collect(group, forward, milliseconds),
        "forward_backward": collect(group, step, milliseconds),
        **device_figures(group, steps, x.device, repeats),
        "saved_bytes": collect(group, {ONE_MAP: [x.nbytes], **saved}),
        "first_step": collect(group, first),
    }


def _forward(module: nn.Module, x: Tensor, precision: Precision) -> Tensor:
    with autocast(x.device, precision):
        output: Tensor = module(x)
    return output


def _step(forward: Callable[[], Tensor], leaves: list[Tensor], gradient: Tensor) -> object:
    output = forward()
    return torch.autograd.grad(output, leaves, gradient.to(output.dtype))
