"""Inputs on which a network can be tried, and why it does not run on them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves, tree_map

from cbam_lightning.errors import UsageError

Example = Tensor | Sequence[Any] | Mapping[str, Any] | None

# Sizes to try, by the number of spatial dimensions: usual images, cubes of medical images, clips of 16 frames
_SIZES_PX: dict[int, list[tuple[int, ...]]] = {
    1: [(224,)],
    2: [(224, 224), (256, 256), (384, 384), (512, 512)],
    3: [(64, 64, 64), (16, 224, 224)],
}


def example_inputs(network: nn.Module, example: Example) -> list[tuple[Any, ...]]:
    """Return the arguments of a forward pass; several if it is not known which ones the network takes.

    Args:
        network: Has a convolution from which a shape can be derived, if there is no example.
        example: A tensor, its shape, a mapping as the only argument, or a tuple of all arguments.

    Raises:
        UsageError: The example is none of these, or there is none and nothing to derive it from.
    """
    if any(is_lazy(parameter) for parameter in network.parameters()):
        raise UsageError(
            f"{type(network).__name__} has lazy layers without sizes. Run it once on a batch, then insert "
            "attention."
        )
    dtype = next((p.dtype for p in network.parameters() if p.is_floating_point()), None)
    if example is None:
        return [(torch.zeros(shape, dtype=dtype),) for shape in _derived_shapes(network)]
    if isinstance(example, (Tensor, Mapping)):
        return _first_of_batch((example,))
    if isinstance(example, Sequence) and not isinstance(example, str) and len(example):
        if all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in example):
            return _first_of_batch((torch.zeros(tuple(example), dtype=dtype),))
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(list(example))):
            return _first_of_batch(tuple(example))
    raise UsageError(
        f"example is {example!r:.200}; pass a tensor, its shape as a list of positive integers, or a tuple "
        "of all arguments of the network."
    )


def _first_of_batch(inputs: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """Return inputs for one image, which keeps batch and channels apart, and the whole batch."""
    tensors = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
    sizes = {len(tensor) if tensor.ndim else 0 for tensor in tensors}
    if len(sizes) != 1 or sizes < {0, 1}:
        return [inputs]
    return [tree_map(lambda x: x[:1] if isinstance(x, Tensor) else x, inputs), inputs]


def moved(inputs: Any, device: torch.device) -> Any:
    """Return nested inputs with all tensors on a device, and copied if they were there already."""
    return tree_map(lambda x: x.detach().clone().to(device) if isinstance(x, Tensor) else x, inputs)


def explain_failure(network: nn.Module, inputs: tuple[Any, ...], error: Exception) -> UsageError:
    """Return an error that says why a network does not run on inputs, and which ones to pass."""
    needed = _required_arguments(network)
    if len(needed) > len(inputs):
        return UsageError(
            f"{type(network).__name__} takes {len(needed)} inputs ({', '.join(needed)}). Pass `example`: a "
            "tuple of a valid tensor for each."
        )
    reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    if isinstance(error, KeyError):
        reason = f"it looks for the key {reason}"
    if any(module._forward_hooks or module._forward_pre_hooks for module in network.modules()):
        reason += " (in a copy without the network's hooks)"
    given = " and ".join(str(tuple(x.shape)) for x in tree_leaves(inputs) if isinstance(x, Tensor))
    return UsageError(
        f"the network does not run on an input of shape {given}: {reason}. Pass `example`: a valid input, "
        "its shape (N, C, H, W), a dict if the network takes one, or a tuple of all its inputs."
    )


def _derived_shapes(network: nn.Module) -> list[tuple[int, ...]]:
    shapes = [shape for shape in map(_stated_shape, (network, *network.children())) if shape]
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            # A network may move space to depth before its first convolution; ours state their in_channels.
            known = getattr(network, "in_channels", None)
            channels = known if isinstance(known, int) else module.in_channels
            dims = len(module.kernel_size)
            return [*shapes, *((1, channels, *size) for size in _SIZES_PX[dims])]
    if not shapes:
        raise UsageError(
            f"{type(network).__name__} has no convolution from which to derive an input shape. "
            "Pass `example`: a valid input or its shape (N, C, H, W)."
        )
    return shapes


def _stated_shape(network: nn.Module) -> tuple[int, ...]:
    """Return the shape of input that torchvision's ViT and timm's networks say they take; () if none."""
    side = getattr(network, "image_size", None)
    config: Any = getattr(network, "default_cfg", None) or {}
    stated: Any = (3, side, side) if isinstance(side, int) else config.get("input_size") or ()
    known = getattr(network, "in_channels", None) or getattr(network, "in_chans", None)
    return (1, known if isinstance(known, int) else stated[0], *stated[1:]) if stated else ()


def _required_arguments(network: nn.Module) -> list[str]:
    parameters = inspect.signature(network.forward).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
