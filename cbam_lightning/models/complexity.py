"""Number of parameters and multiply-accumulates of a network, counted without memory or computation."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cbam_lightning.checks import check_positive
from cbam_lightning.errors import UsageError
from cbam_lightning.models.factory import build

CONVENTION = (
    "GFLOPs are 10^9 multiply-accumulates of one image, as in CBAM's paper: half of what torch's "
    "FlopCounterMode counts in convolutions, linear layers and matrix products, including self-attention "
    "(mhsa as it is defined, without the zeros that its kernel adds). Biases, normalisation, pooling, "
    "activations, products by the element, as with a gate, and additions are not counted."
)


class Complexity(NamedTuple):
    """Number of parameters, and of multiply-accumulates for one image as defined by ``CONVENTION``."""

    params: int
    macs: int


def count(network: nn.Module, size_px: int = 224, in_channels: int = 3) -> Complexity:
    """Count a network on the meta device, in evaluation mode, without changing it.

    A module with a method ``count_macs(x)`` says itself what it has for its input, where its operations are
    more than its definition, as those of ``mhsa`` are.

    Args:
        network: Maps (1, in_channels, size_px, size_px) to anything.
        size_px: Height and width of the image.
        in_channels: Number of channels of the image.

    Raises:
        UsageError: A number below 1, or images that the network does not take.
    """
    return _count(copy.deepcopy(network), size_px, in_channels)


def count_named(
    network: str,
    attention: str = "none",
    attention_options: Mapping[str, Any] | None = None,
    network_options: Mapping[str, Any] | None = None,
    size_px: int = 224,
) -> Complexity:
    """Count a network for 1000 classes and 3 channels by its name, as in ``create_model``.

    Raises:
        UsageError: An unknown name or option, or images that the network does not take.
    """
    names = (network, attention, attention_options or {}, network_options or {})
    try:
        with torch.device("meta"):
            built = build(*names, num_classes=1000, in_channels=3)
    except NotImplementedError:  # an initialisation that needs values, such as that of torchvision's regnet
        built = build(*names, num_classes=1000, in_channels=3)
    return _count(built, size_px, in_channels=3)


def _count(network: nn.Module, size_px: int, in_channels: int) -> Complexity:
    """Count a network that may be moved to the meta device and left in evaluation mode."""
    check_positive("size_px", size_px)
    check_positive("in_channels", in_channels)
    network = network.to("meta").eval()
    image = torch.empty(1, in_channels, size_px, size_px, device="meta")
    try:
        return count_call(network, image)
    except RuntimeError as error:
        raise UsageError(
            f"{type(network).__name__} does not take images of {in_channels} channels and {size_px} px: "
            f"{error}. Give another size_px or in_channels."
        ) from error


@torch.no_grad()
def count_call(network: nn.Module, *inputs: Any) -> Complexity:
    """Count the parameters of a network, and the multiply-accumulates of one call.

    Args:
        network: Is called as it is, in its mode and on its device.
        inputs: What it is called with.
    """
    counter = FlopCounterMode(display=False)
    before, corrections = list[int](), list[int]()

    def start(module: nn.Module, args: tuple[Any, ...]) -> None:
        before.append(counter.get_total_flops())

    def end(module: Any, args: tuple[Any, ...], output: object) -> None:
        executed = counter.get_total_flops() - before.pop()
        corrections.append(2 * module.count_macs(*args) - executed)

    stating = [module for module in network.modules() if hasattr(module, "count_macs")]
    handles = [module.register_forward_pre_hook(start) for module in stating]
    handles += [module.register_forward_hook(end) for module in stating]
    try:
        with counter:
            network(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    params = sum(parameter.numel() for parameter in network.parameters())
    return Complexity(params, (counter.get_total_flops() + sum(corrections)) // 2)
