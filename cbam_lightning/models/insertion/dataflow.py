"""The data flow of one forward pass of any network: which module returned which tensor, computed from what.

The pass takes almost no time or memory: it runs on torch's meta device, where tensors have a shape but no
contents (https://pytorch.org/docs/stable/meta.html). It leaves the network's weights and statistics alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cbam_lightning.errors import UsageError

# By name, since some of these operators exist only on certain devices.
_LAYERS = frozenset({"convolution", "convolution_overrideable", "mm", "addmm", "bmm", "baddbmm", "linear"})
_ADDITIONS = (torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor)
_SIZE_PX = {1: 224, 2: 224, 3: 64}  # by the number of spatial dimensions


@dataclass(frozen=True, eq=False)
class Value:
    """The contents of a tensor between two writes; an in-place operation creates a new value.

    Attributes:
        shape: Shape of the tensor, (N, C, *positions) for a feature map.
        depth: Number of convolutions and matrix products on the longest path from the input.
        dominators: Bit mask of the values that lie on every path from the input to this value, including
            this value.
        bit: The bit that stands for this value in such masks.
    """

    shape: tuple[int, ...]
    depth: int
    dominators: int
    bit: int


class Dataflow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The record of a forward pass.

    Attributes:
        outputs: For each module name, the result of each call: its value, or the name of its type if it is
            not a tensor. Modules are in the order in which they first returned.
        modules_of: For each value, the names of the modules that returned it, in that order; "" is the
            network.
        additions: The two operands of every addition of different values of the same shape, in order.
        dominators: Bit mask of the values that lie on every path to one of the network's outputs.
        input_shape: Shape of the network's input.
    """

    def __init__(self, x: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.outputs: dict[str, list[Value | str]] = {}
        self.modules_of: dict[Value, list[str]] = {}
        self.additions: list[tuple[Value, Value]] = []
        self.dominators = 0
        self.input_shape = tuple(x.shape)
        # Keeps the tensors alive, so that no id is reused.
        self._tensors: dict[int, tuple[Tensor, Value]] = {}
        self._bits = 1
        self._add(x, [])

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operation and record its results."""
        operands = self._values((args, kwargs))
        if func in _ADDITIONS and len(operands) == 2:
            first, second = operands
            if first is not second and first.shape == second.shape:
                self.additions.append((first, second))
        result = func(*args, **(kwargs or {}))
        if operands:
            is_layer = func.overloadpacket.__name__ in _LAYERS
            for tensor in tree_leaves(result):
                if isinstance(tensor, Tensor):
                    self._add(tensor, operands, is_layer)
        return result

    def returned(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        """Record the output of a module; a forward hook once ``name`` is bound."""
        if isinstance(output, Tensor) and id(output) not in self._tensors:
            self._add(output, [])  # computed from parameters only
        calls = self.outputs.setdefault(name, [])
        if not isinstance(output, Tensor):
            calls.append(type(output).__name__)
            return
        value = self._tensors[id(output)][1]
        calls.append(value)
        self.modules_of.setdefault(value, []).append(name)

    def finished(self, output: Any) -> None:
        """Record the output of the network: a tensor or any nesting of tensors."""
        for value in self._values(output):
            self.dominators |= value.dominators

    def _values(self, nested: Any) -> list[Value]:
        tensors = [leaf for leaf in tree_leaves(nested) if isinstance(leaf, Tensor)]
        return [self._tensors[id(tensor)][1] for tensor in tensors if id(tensor) in self._tensors]

    def _add(self, tensor: Tensor, operands: list[Value], is_layer: bool = False) -> None:
        dominators = operands[0].dominators if operands else 0
        for operand in operands:
            dominators &= operand.dominators
        depth = max((operand.depth for operand in operands), default=0) + is_layer
        value = Value(tuple(tensor.shape), depth, dominators | self._bits, self._bits)
        self._tensors[id(tensor)] = (tensor, value)
        self._bits <<= 1


def record(network: nn.Module, example: Tensor | Sequence[int] | None = None) -> Dataflow:
    """Run a network once in evaluation mode and record the data flow.

    If the network cannot run on the meta device, for example because a shape depends on the contents of the
    input, it runs on its own device.

    Args:
        network: Takes one tensor. Its weights, statistics and training flags stay unchanged.
        example: An input or its shape, (N, C, *positions). Default: one image of side 224, or 64 in three
            dimensions, with the dimensions of the network's first convolution and the ``in_channels`` of
            the network, if it has this attribute, or of that convolution.

    Raises:
        UsageError: The network does not run on the example, or has no convolution to derive one from.
    """
    x = _example_input(network, example)
    with _evaluating(network), torch.no_grad():
        try:
            on_meta = {
                name: tensor.detach().to("meta")
                for name, tensor in chain(network.named_parameters(), network.named_buffers())
            }
            return _run(network, x.to("meta"), on_meta)
        except Exception:  # code that reads a tensor's contents raises anything
            device = next((p.device for p in network.parameters()), x.device)
        try:
            return _run(network, x.to(device), {})
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise UsageError(
                f"the network does not run on an input of shape {tuple(x.shape)}: {reason}. "
                "Pass `example`: a valid input or its shape (N, C, H, W)."
            ) from error


def _run(network: nn.Module, x: Tensor, tensors: dict[str, Tensor]) -> Dataflow:
    flow = Dataflow(x)
    with ExitStack() as stack:
        for name, module in network.named_modules():
            handle = module.register_forward_hook(partial(flow.returned, name))
            stack.callback(handle.remove)
        stack.enter_context(flow)
        flow.finished(functional_call(network, tensors, (x,)))
    return flow


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    # Not with eval() and train(): a network may override them, for example to keep BatchNorms frozen.
    before = {module: module.training for module in network.modules()}
    try:
        for module in before:
            module.training = False
        yield
    finally:
        for module, training in before.items():
            module.training = training


def _example_input(network: nn.Module, example: Tensor | Sequence[int] | None) -> Tensor:
    if isinstance(example, Tensor):
        return example
    dtype = next((p.dtype for p in network.parameters() if p.is_floating_point()), None)
    if example is not None:
        if not isinstance(example, Sequence) or not all(isinstance(n, int) and n > 0 for n in example):
            raise UsageError(
                f"example is {example!r}; pass a tensor, or its shape as a list of positive integers."
            )
        return torch.zeros(tuple(example), dtype=dtype)
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            # A network may move space to depth before its first convolution; ours state their in_channels.
            known = getattr(network, "in_channels", None)
            channels = known if isinstance(known, int) else module.in_channels
            dims = len(module.kernel_size)
            return torch.zeros((1, channels, *[_SIZE_PX[dims]] * dims), dtype=dtype)
    raise UsageError(
        f"{type(network).__name__} has no convolution from which to derive an input shape. "
        "Pass `example`: a valid input or its shape (N, C, H, W)."
    )
