"""Put attention into any network, behind some of its modules, without renaming any of its weights.

The new weights behind the module ``p`` are ``p.attention.*``, and no other name changes: the state dict of
the plain network is a subset, and can be loaded before the insertion or after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from cbam_lightning.attention.registry import build_attention, default_placement, option_names
from cbam_lightning.errors import UsageError, unknown_name
from cbam_lightning.models.insertion.points import Place, plan_insertion
from cbam_lightning.user_code.class_paths import import_class_path

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
    """Put an attention module behind each of the places that ``plan_insertion`` finds.

    With the gate ``identity``, and with ``sagan``, which has no gate and starts with a scale of 0, the
    network returns in evaluation mode bit for bit what it returned before.

    Args:
        network: Any network of one input whose feature maps are (N, C, *positions). It is changed in place.
        attention: One of ``cbam_lightning.attention.list_attention()``, where ``none`` changes nothing, or
            the import path of a class.
        where: ``residual``, ``stage``, or a pattern or list of patterns of submodule names. Left out, it is
            ``stage`` for ``bam`` and ``sagan``, and else what suits the network. See ``plan_insertion``.
        gate: Of the attention, if it has that option.
        example: An input or its shape, where an image of 224 x 224 does not suit the network.
        options: What the attention's class accepts besides ``channels``. ``dims``, where it exists, follows
            from the feature maps.

    Returns:
        The network. The new modules have its device, dtype and training mode, and require gradients.

    Raises:
        UsageError: As ``plan_insertion`` and ``create_attention`` do, nothing was found, a place already has
            an attribute ``attention``, or a gate was chosen for an attention that has none. The network is
            then as it was.
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
    places = plan_insertion(network, where, example)
    if not places:
        message = f"{type(network).__name__} has no place for attention. Give a pattern of submodule names."
        raise UsageError(message)
    made = [_make(network, attention, place, options) for place in places]
    for place, module in zip(places, made, strict=True):
        _attach(network.get_submodule(place.name), module)
    return network


def describe_places(places: Iterable[Place]) -> str:
    """Return one line a place: its name, channels, positions of its feature map, and how it was found."""
    rows = [
        (place.name, f"{place.channels} channels", " x ".join(map(str, place.shape[2:])), place.kind)
        for place in places
    ]
    if not rows:
        return "no place for attention; give a pattern of submodule names"
    name, channels, positions = (max(len(row[column]) for row in rows) for column in range(3))
    return "\n".join(
        f"{row[0]:<{name}}  {row[1]:>{channels}}  {row[2]:>{positions}}  {row[3]}" for row in rows
    )


def _make(network: nn.Module, attention: str, place: Place, options: dict[str, Any]) -> nn.Module:
    host = network.get_submodule(place.name)
    if hasattr(host, _CHILD):
        message = (
            f"{place.name!r} already has an attribute {_CHILD!r}, from an insertion before or of its own. "
            "Give `where` a pattern of other modules, or start from the plain network."
        )
        raise UsageError(message)
    if "dims" in option_names(attention):
        options = {"dims": len(place.shape) - 2, **options}
    module = build_attention(attention, place.channels, **options).train(host.training)
    near = _nearest_parameter(network, place.name)
    return module if near is None else module.to(near.device, near.dtype)


def _nearest_parameter(network: nn.Module, name: str) -> nn.Parameter | None:
    """Return the first floating-point parameter of the module, or else of the modules around it."""
    parts = name.split(".")
    for length in range(len(parts), -1, -1):
        for parameter in network.get_submodule(".".join(parts[:length])).parameters():
            if parameter.is_floating_point():
                return parameter
    return None


def _attach(host: nn.Module, attention: nn.Module) -> None:
    host.add_module(_CHILD, attention)
    if type(host).forward is not nn.Sequential.forward:  # which runs its new last child by itself
        host.register_forward_hook(_apply_attention)


def _apply_attention(host: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    # At the top of a file and not a closure: it is copied and pickled with the module.
    attended: Tensor = getattr(host, _CHILD)(output)
    return attended
