"""What attention costs beside a copy of its input: time, and memory kept for the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from cbam_lightning.attention.implementation import choose_compiled
from cbam_lightning.attention.registry import create_attention, option_names
from cbam_lightning.benchmarks import (
    Report,
    Row,
    alternate,
    choose_device,
    first_call_seconds,
    saved_bytes,
)
from cbam_lightning.benchmarks.baselines import baselines
from cbam_lightning.checks import check_choice, check_positive
from cbam_lightning.errors import UsageError
from cbam_lightning.user_code.class_paths import import_class_path

# What follows the residual branches of ResNet-50's four stages at 224 px, for 16 images.
SHAPES = ("16x256x56x56", "16x512x28x28", "16x1024x14x14", "16x2048x7x7")
MEMORY_FORMATS = {"channels_first": torch.contiguous_format, "channels_last": torch.channels_last}
COPY, ONE_MAP = "copy", "one map"
COMPILED = ("fused", "timm compiled")
_DTYPE = torch.float32


def benchmark_attention(
    name: str = "cbam",
    shapes: Sequence[str] = SHAPES,
    memory_formats: Sequence[str] = tuple(MEMORY_FORMATS),
    repeats: int = 11,
    compiled: bool | None = None,
    device: str = "cpu",
) -> list[Report]:
    """Measure every implementation of an attention module, in training mode, alternating.

    ``copy``, the unit of both times, is one ``x.clone()``, which reads and writes a feature map once.
    ``authors`` and ``timm`` are those of ``baselines``. Gradients are taken of the input and of all
    parameters, without adding them up. The first step is the first call of what is compiled, after
    ``torch.compiler.reset()``; torch's cache on the disk may have what an earlier run compiled.

    Args:
        name: One of ``list_attention()``, made with its default options.
        shapes: Of the input, such as ``16x256x56x56`` for (N, C, H, W).
        memory_formats: ``channels_first``, ``channels_last`` or both.
        repeats: Measurements of each candidate.
        compiled: Whether ``fused`` and ``timm compiled`` take part; None for where there is a compiler.
        device: Where to measure, such as ``cpu`` or ``cuda``.

    Returns:
        Forward in ms, forward + backward in ms, bytes kept for the backward pass, and, if anything is
        compiled, the first step in s.

    Raises:
        UsageError: An unknown name, an impossible shape or device, a number below 1, or no compiler.
    """
    check_positive("repeats", repeats)
    for memory_format in memory_formats:
        check_choice("memory_format", memory_format, MEMORY_FORMATS)
    sizes = {shape: parse_shape(shape) for shape in shapes}
    place = choose_device(device)
    compiled = choose_compiled(compiled, place)
    rows: dict[str, list[Row]] = {"forward": [], "forward_backward": [], "saved_bytes": [], "first_step": []}
    for shape, size in sizes.items():
        for memory_format in dict.fromkeys(memory_formats):
            if compiled:
                torch.compiler.reset()  # so that no shape is a recompilation after an earlier one
            x = _feature_map(size, memory_format, place)
            modules = implementations(name, size[1], compiled)
            for module in modules.values():
                module.to(place, _DTYPE).to(memory_format=MEMORY_FORMATS[memory_format])
            measured = _measure(f"{shape} {memory_format}", modules, x, repeats)
            for quantity, found in measured.items():
                rows[quantity] += found
    return _reports(name, rows, {"repeats": repeats, "dtype": "float32", "device": device})


def implementations(name: str, channels: int, compiled: bool) -> dict[str, nn.Module]:
    """Return every form of an attention module that there is here, in training mode.

    Those that are ours have the same random parameters: none is 0, as the weight of CBAM's spatial BatchNorm
    is in the beginning, which would make half of the gradients 0.

    Args:
        name: One of ``list_attention()``.
        channels: C, the number of channels of the input.
        compiled: Whether those are among them that ``torch.compile`` makes.

    Raises:
        UsageError: An unknown name.
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
        found["fused"] = create_attention(name, channels, implementation="fused")
        found["fused"].load_state_dict(reference.state_dict())
    if "timm" in others:
        found["timm"] = others["timm"]
        if compiled:
            found["timm compiled"] = cast("nn.Module", torch.compile(others["timm"], dynamic=False))
    return found


def parse_shape(text: str) -> tuple[int, int, int, int]:
    """Return the numbers of a shape such as ``16x256x56x56``.

    Raises:
        UsageError: It is not made of four whole numbers of at least 1.
    """
    parts = text.split("x")
    if len(parts) != 4 or not all(part.isdecimal() and int(part) for part in parts):
        message = f"shape is {text!r}; give NxCxHxW, four whole numbers of at least 1, such as {SHAPES[0]}."
        raise UsageError(message)
    n, c, h, w = map(int, parts)
    return n, c, h, w


def _feature_map(size: tuple[int, ...], memory_format: str, device: torch.device) -> Tensor:
    try:
        x = torch.randn(size, dtype=_DTYPE, device=device)
    except (RuntimeError, TypeError) as error:  # TypeError: a number beyond 64 bits
        message = (
            f"{'x'.join(map(str, size))} does not fit into the memory of {device}; give a smaller shape."
        )
        raise UsageError(message) from error
    return x.to(memory_format=MEMORY_FORMATS[memory_format]).requires_grad_()


def _measure(group: str, modules: dict[str, nn.Module], x: Tensor, repeats: int) -> dict[str, list[Row]]:
    gradient = torch.randn_like(x)
    copy = x.detach().clone
    steps = {name: partial(_step, module, x, gradient) for name, module in modules.items()}
    forwards = {name: partial(module, x) for name, module in modules.items()}
    _check_shape(steps["reference"], group)
    first = {name: [first_call_seconds(step, x.device)] for name, step in steps.items() if name in COMPILED}
    forward = alternate({COPY: copy, **forwards}, repeats, 2, x.device, f"forward, {group}")
    step = alternate({COPY: copy, **steps}, repeats, 2, x.device, f"forward + backward, {group}")
    kept = {name: [saved_bytes(forwards[name], _state(module))] for name, module in modules.items()}
    return {
        "forward": _rows(group, forward, 1e3),
        "forward_backward": _rows(group, step, 1e3),
        "saved_bytes": _rows(group, {ONE_MAP: [x.nbytes], **kept}, 1),
        "first_step": _rows(group, first, 1),
    }


def _check_shape(step: Callable[[], object], group: str) -> None:
    try:
        step()
    except (RuntimeError, ValueError) as error:  # BatchNorm of a single value
        message = f"no training step on {group}: {error} Give another shape."
        raise UsageError(message) from error


def _step(module: nn.Module, x: Tensor, gradient: Tensor) -> object:
    return torch.autograd.grad(module(x), [x, *module.parameters()], gradient)


def _state(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _rows(group: str, measured: Mapping[str, Sequence[float]], factor: float) -> list[Row]:
    return [Row(group, name, [factor * value for value in values]) for name, values in measured.items()]


def _reports(name: str, rows: dict[str, list[Row]], setting: Mapping[str, object]) -> list[Report]:
    report: Callable[..., Report] = partial(Report, setting=setting)
    kinds = {
        "forward": (f"{name}, forward", "ms", COPY),
        "forward_backward": (f"{name}, forward + backward", "ms", COPY),
        "saved_bytes": (f"{name}, kept for the backward pass", "bytes", ONE_MAP),
        "first_step": (f"{name}, first forward + backward with its compilation", "s", None),
    }
    return [
        report(f"attention_{kind}", title, unit, rows[kind], baseline)
        for kind, (title, unit, baseline) in kinds.items()
        if rows[kind]
    ]
