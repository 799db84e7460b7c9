"""Networks by name: a table that can be listed without importing torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, TypeVar, overload

from cbam_lightning.errors import UsageError


class Architecture(NamedTuple):
    """How to build a named network: a class of this package, its arguments, and a line for the user."""

    family: str
    options: Mapping[str, Any]
    description: str
    torchvision: str | None = None  # torchvision's network whose ImageNet weights fit this one


def _resnet(
    block: str, *depths: int, kind: str = "ResNet", torchvision: str | None = None, **options: Any
) -> Architecture:
    stages = "-".join(map(str, depths))
    description = f"{kind} for {_images(options)}: {stages} {block} blocks"
    return Architecture(
        "resnet.ResNet", {"block": block, "depths": depths, **options}, description, torchvision
    )


def _wide_resnet18(widen: float, **options: Any) -> Architecture:
    """Widen the stages but not the stem: only this matches the parameters in CBAM's Table 4."""
    widths = tuple(int(width * widen) for width in (64, 128, 256, 512))
    kind = f"ResNet {widen} times as wide,"
    return _resnet("basic", 2, 2, 2, 2, kind=kind, widths=widths, stem_width=64, **options)


def _resnext(*depths: int, torchvision: str | None = None, **options: Any) -> Architecture:
    kind = "ResNeXt of 32 groups,"
    options = {"groups": 32, "width_per_group": 4, **options}
    return _resnet("bottleneck", *depths, kind=kind, torchvision=torchvision, **options)


def _mobilenet(**options: Any) -> Architecture:
    width = f" {options['width_multiplier']} times as wide," if "width_multiplier" in options else ""
    description = f"MobileNet v1{width} for {_images(options)}: 13 depthwise-separable blocks"
    return Architecture("mobilenet.MobileNet", options, description)


def _images(options: Mapping[str, Any]) -> str:
    return "small images (CIFAR)" if options.get("stem") == "cifar" else "large images (ImageNet)"


_CIFAR_WIDTHS = (16, 32, 64)  # https://arxiv.org/abs/1512.03385, section 4.2

MODELS: dict[str, Architecture] = {
    "resnet18": _resnet("basic", 2, 2, 2, 2, torchvision="resnet18"),
    "resnet34": _resnet("basic", 3, 4, 6, 3, torchvision="resnet34"),
    "resnet50": _resnet("bottleneck", 3, 4, 6, 3, torchvision="resnet50"),
    "resnet101": _resnet("bottleneck", 3, 4, 23, 3, torchvision="resnet101"),
    "resnet152": _resnet("bottleneck", 3, 8, 36, 3, torchvision="resnet152"),
    "wide_resnet18_1.5": _wide_resnet18(1.5),
    "wide_resnet18_2.0": _wide_resnet18(2.0),
    "resnext50_32x4d": _resnext(3, 4, 6, 3, torchvision="resnext50_32x4d"),
    "resnext101_32x4d": _resnext(3, 4, 23, 3),
    "mobilenet_v1": _mobilenet(),
    "mobilenet_v1_0.7": _mobilenet(width_multiplier=0.7),
    "resnet18_cifar": _resnet("basic", 2, 2, 2, 2, stem="cifar"),
    "resnet34_cifar": _resnet("basic", 3, 4, 6, 3, stem="cifar"),
    "resnet50_cifar": _resnet("bottleneck", 3, 4, 6, 3, stem="cifar"),
    "resnet101_cifar": _resnet("bottleneck", 3, 4, 23, 3, stem="cifar"),
    "wide_resnet18_2.0_cifar": _wide_resnet18(2.0, stem="cifar"),
    "resnext50_32x4d_cifar": _resnext(3, 4, 6, 3, stem="cifar"),
    "mobilenet_v1_cifar": _mobilenet(stem="cifar"),
    **{
        f"resnet{6 * n + 2}": _resnet("basic", n, n, n, stem="cifar", widths=_CIFAR_WIDTHS)
        for n in (1, 2, 3, 5, 7, 9, 18)
    },
}


USER_NETWORKS: dict[str, Callable[..., Any]] = {}
_B = TypeVar("_B", bound=Callable[..., Any])


@overload
def register_model(name: str, builder: _B) -> _B: ...
@overload
def register_model(name: str) -> Callable[[_B], _B]: ...
def register_model(name: str, builder: Any = None) -> Any:
    """Register your own network under a name; as a function, or as a decorator of the class or function.

    A class that is not registered is available by its import path, ``my_package.MyNet``, in place of a name.

    Args:
        name: A name without a slash that is not in ``list_models()``.
        builder: The class, or a function that returns the module, which maps images (N, C, H, W) to logits
            (N, K). It is called with those of ``num_classes`` and ``in_channels`` that it accepts. If it has
            no arguments ``attention`` and ``attention_options``, ``insert_attention`` adds the attention.
            Default: the decorated class or function.

    Raises:
        UsageError: The name is invalid or taken.
    """
    if builder is None:
        return lambda decorated: register_model(name, decorated)
    known = USER_NETWORKS.get(name)
    if not name or "/" in name or name in MODELS or (known and _origin(known) != _origin(builder)):
        raise UsageError(
            f"{name!r} cannot be the name of a network: it is empty, has a slash or is taken; choose another."
        )
    USER_NETWORKS[name] = builder
    return builder


def list_models(pattern: str = "*") -> list[str]:
    """Return the names of ``create_model`` that match a pattern, in natural order.

    Args:
        pattern: Shell wildcards, for example ``resnet*_cifar``.
    """
    names = (name for name in (*MODELS, *USER_NETWORKS) if fnmatchcase(name, pattern))
    return sorted(names, key=natural_order)


def describe_models(pattern: str = "*") -> dict[str, str]:
    """Return a one-line description for every name of ``list_models(pattern)``, in its order."""
    return {
        name: MODELS[name].description if name in MODELS else "your own network"
        for name in list_models(pattern)
    }


def _origin(builder: Callable[..., Any]) -> tuple[Any, Any]:
    """Return what stays the same if a definition is executed again, for example in a notebook."""
    return getattr(builder, "__module__", None), getattr(builder, "__qualname__", builder)


def natural_order(name: str) -> list[str | int]:
    """Return a sort key by which resnet18 comes before resnet101."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
