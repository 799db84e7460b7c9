"""Insert attention after modules of any network, without renaming its weights.

The new weights after module ``p`` are ``p.attention.*``, and no other name changes: the state dict of the
plain network is a subset and can be loaded before or after the insertion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from cbam_lightning.attention.registry import (
    build_attention,
    check_options,
    default_placement,
    option_names,
)
from cbam_lightning.errors import UsageError, unknown_name
from cbam_lightning.models.classifier_network import ClassifierNetwork
from cbam_lightning.models.insertion.attended import CHILD, attend, watch
from cbam_lightning.models.insertion.example_inputs import Example
from cbam_lightning.models.insertion.points import InsertionPoint, plan_insertion
from cbam_lightning.models.insertion.wrappers import unwrapped
from cbam_lightning.tables import aligned
from cbam_lightning.user_code.class_paths import import_class_path, importing_nothing


def insert_attention(
    network: nn.Module,
    attention: str,
    /,
    *,
    where: str | Sequence[str] | None = None,
    gate: str = "identity",
    example: Example = None,
    **options: Any,
) -> nn.Module:
    """Insert an attention module at every insertion point that ``plan_insertion`` finds.

    With the gate ``identity``, the outputs in evaluation mode stay bit-identical. So they do with attention
    that has no gate, but starts at a scale of 0, such as ``sagan``. Attention that cannot start as the
    identity, such as ``simam``, which has no parameters, needs its published gate: ``gate="sigmoid"``.

    Copies, pickles and exports of the network keep the attention, and so do conversions of its layers, such
    as to ``SyncBatchNorm``. ``cbam-lightning models --help`` says where it goes in each kind of network.

    Args:
        network: Any network; modified in place.
        attention: One of ``cbam_lightning.attention.list_attention()``, where ``none`` changes nothing, or
            the import path of a class.
        where: ``residual``, ``stage``, or one or more patterns of submodule names; see ``plan_insertion``.
            Default: ``stage`` for attention whose paper puts it there, such as ``bam``, else the default of
            ``plan_insertion``.
        gate: Gate of the attention, if it has this option.
        example: As for ``plan_insertion``.
        options: Arguments of the attention's class besides ``channels`` and ``dims``, which follow from the
            feature map.

    Returns:
        The network. The new modules have its device, dtype and training mode, and require gradients.

    Raises:
        UsageError: As for ``plan_insertion`` and ``create_attention``; or there is no insertion point, one
            already has an attribute ``attention``; the attention has no gate and one was chosen, or it cannot
            have the gate ``identity`` and no other was chosen. The network is unchanged.
    """
    plain = unwrapped(network)
    import_class_path(attention, "attention")
    check_options(attention, options, beside=("where", "example"))
    if attention == "none":
        return network
    allowed = option_names(attention)
    if "gate" in allowed:
        options["gate"] = gate
    elif gate != "identity":
        raise unknown_name(kind=f"{attention} option", given="gate", allowed=allowed)
    if where is None and default_placement(attention) == "stage":
        where = "stage"
    points = plan_insertion(plain, where, example)
    if not points:
        own = f"make it with attention={attention!r}, or " * isinstance(plain, ClassifierNetwork)
        raise UsageError(
            f"{type(network).__name__} has no insertion point for attention: {own}pass `where` a pattern of "
            "submodule names."
        )
    with torch.inference_mode(False):  # in inference mode, the new weights could never be trained
        modules = [_build_for(plain, point, attention, options) for point in points]
    for point, module in zip(points, modules, strict=True):
        attend(plain.get_submodule(point.name), module, point.channel_axis)
    watch(plain, [point.name for point in points])
    return network


def insert_named_attention(
    network: nn.Module,
    attention: str,
    attention_options: Mapping[str, Any],
    where: str | Sequence[str] | None,
) -> nn.Module:
    """Insert attention whose name may come from a checkpoint, so that nothing is imported.

    Raises:
        UsageError: As for ``insert_attention``, or an option of the attention belongs to the network.
    """
    for option in ("where", "example"):
        if option in attention_options:
            raise UsageError(f"{option!r} is not an option of attention; pass it as a network option.")
    with importing_nothing():
        return insert_attention(network, attention, where=where, **attention_options)


def describe_insertion_points(points: Sequence[InsertionPoint]) -> str:
    """Return a line per insertion point: name, channels, size of the feature map, and how it was found."""
    if not points:
        return "no insertion point for attention; give a pattern of submodule names"
    rows = [(p.name, f"{p.channels} channels", _size(p.positions), p.kind) for p in points]
    return "\n".join(aligned(rows, left=(0, 3)))


def _size(positions: tuple[int, ...]) -> str:
    return f"{positions[0]} tokens" if len(positions) == 1 else " x ".join(map(str, positions))


def _build_for(
    network: nn.Module, point: InsertionPoint, attention: str, options: dict[str, Any]
) -> nn.Module:
    host = network.get_submodule(point.name)
    if hasattr(host, CHILD):
        raise UsageError(
            f"{point.name!r} already has an attribute {CHILD!r}. "
            "Pass `where` a pattern of other modules, or start from the plain network."
        )
    dims = len(point.positions)
    if "dims" in option_names(attention):
        if options.get("dims", dims) != dims:
            raise UsageError(
                f"dims is {options['dims']!r}, but the output of {point.name!r}, {point.shape}, has {dims} "
                "position dimensions. Leave dims out."
            )
        options = {**options, "dims": dims}
    module = build_attention(attention, point.channels, **options).train(host.training)
    parameter = _nearest_parameter(network, point.name)
    return module if parameter is None else module.to(parameter.device, parameter.dtype)


def _nearest_parameter(network: nn.Module, name: str) -> nn.Parameter | None:
    """Return the first floating-point parameter of the module, or else of its closest parent with one."""
    parts = name.split(".")
    for length in range(len(parts), -1, -1):
        for parameter in network.get_submodule(".".join(parts[:length])).parameters():
            if parameter.is_floating_point():
                return parameter
    return None
