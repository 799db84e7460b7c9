"""Insert attention after modules of any network, without renaming its weights.

The new weights after module ``p`` are ``p.attention.*``, and no other name changes: the state dict of the
plain network is a subset and can be loaded before or after the insertion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from cbam_lightning.attention.registry import build_attention, default_placement, option_names
from cbam_lightning.errors import UsageError, unknown_name
from cbam_lightning.models.insertion.points import InsertionPoint, plan_insertion
from cbam_lightning.tables import aligned
from cbam_lightning.user_code.class_paths import import_class_path, importing_nothing

_CHILD = "attention"


def insert_attention(
    network: nn.Module,
    attention: str,
    /,
    *,
    where: str | Sequence[str] | None = None,
    gate: str = "identity",
    example: Tensor | Sequence[int] | None = None,
    **options: Any,
) -> nn.Module:
    """Insert an attention module at every insertion point that ``plan_insertion`` finds.

    With the gate ``identity``, and with ``sagan``, which has no gate and starts at a scale of 0, the outputs
    in evaluation mode stay bit-identical.

    Args:
        network: Any network with one input and feature maps (N, C, *positions); modified in place.
        attention: One of ``cbam_lightning.attention.list_attention()``, where ``none`` changes nothing, or
            the import path of a class.
        where: ``residual``, ``stage``, or one or more patterns of submodule names; see ``plan_insertion``.
            Default: ``stage`` for ``bam`` and ``sagan``, else the default of ``plan_insertion``.
        gate: Gate of the attention, if it has this option.
        example: An input or its shape, if the network does not take images of 224 x 224.
        options: Arguments of the attention's class besides ``channels``. ``dims``, if it exists, defaults to
            the number of spatial dimensions of the feature map.

    Returns:
        The network. The new modules have its device, dtype and training mode, and require gradients.

    Raises:
        UsageError: As for ``plan_insertion`` and ``create_attention``; or there is no insertion point, one
            already has an attribute ``attention``, or the attention has no gate and one was chosen. The
            network is unchanged.
    """
    import_class_path(attention, "attention")
    allowed = option_names(attention)
    if attention == "none":
        build_attention(attention, 1, **options)
        return network
    if "gate" in allowed:
        options["gate"] = gate
    elif gate != "identity":
        raise unknown_name(kind=f"{attention} option", given="gate", allowed=allowed)
    if where is None and default_placement(attention) == "stage":
        where = "stage"
    points = plan_insertion(network, where, example)
    if not points:
        raise UsageError(
            f"{type(network).__name__} has no insertion point for attention. "
            "Pass `where` a pattern of submodule names."
        )
    modules = [_build_for(network, point, attention, options) for point in points]
    for point, module in zip(points, modules, strict=True):
        host = network.get_submodule(point.name)
        host.add_module(_CHILD, module)
        if type(host).forward is not nn.Sequential.forward:  # a Sequential runs its new last child anyway
            host.register_forward_hook(_apply_attention)
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
    rows = [(p.name, f"{p.channels} channels", " x ".join(map(str, p.shape[2:])), p.kind) for p in points]
    return "\n".join(aligned(rows, left=(0, 3)))


def _build_for(
    network: nn.Module, point: InsertionPoint, attention: str, options: dict[str, Any]
) -> nn.Module:
    host = network.get_submodule(point.name)
    if hasattr(host, _CHILD):
        raise UsageError(
            f"{point.name!r} already has an attribute {_CHILD!r}. "
            "Pass `where` a pattern of other modules, or start from the plain network."
        )
    if "dims" in option_names(attention):
        options = {"dims": len(point.shape) - 2, **options}
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


def _apply_attention(host: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    # A module-level function and not a closure, since it is copied and pickled with the host.
    attended: Tensor = getattr(host, _CHILD)(output)
    return attended
