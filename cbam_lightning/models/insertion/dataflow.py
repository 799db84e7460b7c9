"""The data flow of one forward pass of any network: which module returned which tensor, computed from what.

The pass runs on a copy, so the network keeps nothing of it. On torch's meta device, where tensors have a
shape but no contents (https://pytorch.org/docs/stable/meta.html), it takes almost no time or memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary, WeakTensorKeyDictionary

from cbam_lightning.models.insertion.channel_axes import CONVOLUTIONS, NONE, PRODUCTS, Axes, channel_axes

_ADDITIONS = (torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor)
# Words in the names of operators that bend or normalise values
_BENDS = frozenset(
    (
        *("relu", "prelu", "rrelu", "elu", "celu", "selu", "gelu", "silu", "mish", "hardswish", "sigmoid"),
        *("hardsigmoid", "tanh", "hardtanh", "clamp", "softmax", "softplus", "norm", "attention", "exp"),
        *("log", "pow", "sqrt", "rsqrt"),
    )
)


@dataclass(frozen=True, eq=False)
class Value:
    """The contents of a tensor between two writes; an in-place operation creates a new value.

    Attributes:
        shape: Shape of the tensor.
        axes: The axes that are channels; see ``channel_axes``.
        depth: Number of convolutions and matrix products on the longest path from the input.
        bends: Number of activations and normalisations on the longest path from the input.
        dominators: Bit mask of the values that lie on every path from the input to this value, including
            this value.
        ancestors: Bit mask of the values that lie on any such path.
        bit: The bit that stands for this value in such masks.
        operator: Name of the operation that returned it, as in ``torch.ops.aten``; empty for inputs.
        source: The value that this one was scaled, permuted, reshaped or resized from, if it was computed so.
    """

    shape: tuple[int, ...]
    axes: Axes
    depth: int
    bends: int
    dominators: int
    ancestors: int
    bit: int
    operator: str
    source: Value | None = None

    @property
    def channel_axis(self) -> int | None:
        """The axis of the channels, if there is exactly one."""
        return next(iter(self.axes)) if len(self.axes) == 1 else None

    @property
    def positions(self) -> tuple[int, ...]:
        """The sizes of all axes but the first, of the batch, and the channels."""
        return tuple(size for axis, size in enumerate(self.shape) if axis and axis != self.channel_axis)


class Dataflow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The record of a forward pass.

    Attributes:
        outputs: For each module name, the result of each call: its value, or what is wrong with it if it is
            none. Modules are in the order in which they first returned.
        arguments: The positional and keyword arguments of the last call of each module that runs others, or
            something else than the ``forward`` of its class.
        modules_of: For each value, the names of the modules that returned it, in that order; "" is the
            network.
        additions: For every addition of different values of the same shape, in order: its two operands and
            its result.
        results: The values that the network returned.
        inputs: The arguments of the forward pass, on ``device``.
        input_shape: Shape of the images among them.
        device: Where it ran; ``meta`` where possible.
        headless: Whether the network says that it returns features: its ``num_classes`` is 0.
        unfit: For the names of the modules after which attention cannot be inserted: why.
        attention_parts: Names of the modules inside attention.
    """

    def __init__(self, inputs: tuple[Any, ...], device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.inputs = inputs
        self.device = device
        self.outputs: dict[str, list[Value | str]] = {}
        self.arguments: dict[str, tuple[Any, Any]] = {}
        self.modules_of: dict[Value, list[str]] = {}
        self.additions: list[tuple[Value, Value, Value]] = []
        self.results: list[Value] = []
        self.headless = False
        self.unfit: dict[str, str] = {}
        self.attention_parts: set[str] = set()
        self._values_of: WeakIdKeyDictionary = WeakTensorKeyDictionary()
        self._bits = 1
        self.paused = 0
        # The first of the inputs with the most axes: attention goes on the way from it, whatever joins later.
        images = max(_tensors(inputs), key=lambda tensor: tensor.ndim)
        self.input_shape = tuple(images.shape)
        for tensor in _tensors(inputs):
            self._add(tensor, [], axes=frozenset({1}), dominators=0 if tensor is images else -1)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operation and record its results."""
        operands = sorted(self._values((args, kwargs)), key=lambda value: value.depth)
        result = func(*args, **(kwargs or {}))
        if not operands:
            return result
        name = func.overloadpacket.__name__
        for tensor in _tensors(result):
            shapes = [(operand.shape, operand.axes) for operand in operands]
            axes = channel_axes(name.rstrip("_"), args, shapes, tuple(tensor.shape))
            self._add(tensor, operands, name, axes)
        if func in _ADDITIONS and len(operands) == 2 and not self.paused:
            first, second = operands
            if first is not second and first.shape == second.shape:
                self.additions.append((first, second, self._values_of[result]))
        return result

    def returned(self, name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        """Record the output of a module; a forward hook once ``name`` is bound.

        Returns:
            Another tensor in place of an argument that the module changed and returned: the network may use
            the argument and not what the module returns.
        """
        if module._modules or "forward" in vars(module) or type(module).__call__ is not nn.Module.__call__:
            self.arguments[name] = args, kwargs
        calls = self.outputs.setdefault(name, [])
        if not isinstance(output, Tensor):
            calls.append(f"returns {type(output).__name__}, not a tensor")
        elif output not in self._values_of:
            calls.append("returns what does not depend on the input")
        else:
            written = self._values_of[output].operator.endswith("_")
            if written and any(output is argument for argument in args):
                output = output.view_as(output)
            value = self._values_of[output]
            calls.append(value)
            self.modules_of.setdefault(value, []).append(name)
        return output

    def pause(self, change: int, *ignored: Any) -> None:
        """Record no additions inside a module, from 1 before its call to -1 after it."""
        self.paused += change

    def finished(self, output: Any) -> None:
        """Record the output of the network: a tensor, or any nesting of tensors in containers and objects."""
        self.results = self._values(list(_tensors_in(output)))

    @property
    def dominators(self) -> int:
        """Bit mask of the values that lie on every path to one of the network's outputs."""
        mask = 0
        for value in self.results:
            mask |= value.dominators
        return mask

    def _values(self, nested: Any) -> list[Value]:
        return [self._values_of[tensor] for tensor in _tensors(nested) if tensor in self._values_of]

    def _add(
        self, tensor: Tensor, operands: list[Value], name: str = "", axes: Axes = NONE, dominators: int = 0
    ) -> None:
        dominators = operands[0].dominators if operands else dominators
        ancestors = 0
        for operand in operands:
            dominators &= operand.dominators
            ancestors |= operand.ancestors
        is_layer = name.rstrip("_") in CONVOLUTIONS | PRODUCTS
        is_bend = not _BENDS.isdisjoint(name.split("_"))
        depth = max((operand.depth for operand in operands), default=0) + is_layer
        bends = max((operand.bends for operand in operands), default=0) + is_bend
        source = operands[0] if len(operands) == 1 and not is_layer and not is_bend else None
        shape = tuple(tensor.shape)
        bit = self._bits
        value = Value(shape, axes, depth, bends, dominators | bit, ancestors | bit, bit, name, source)
        self._values_of[tensor] = value
        self._bits <<= 1


def _tensors(nested: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(nested) if isinstance(leaf, Tensor)]


def _tensors_in(nested: Any, depth: int = 4) -> Iterator[Tensor]:
    """Yield the tensors in containers, mappings, dataclasses and other objects, one in the other."""
    for leaf in tree_leaves(nested):
        if isinstance(leaf, Tensor):
            yield leaf
        elif isinstance(leaf, Mapping) and depth:
            yield from _tensors_in(list(leaf.values()), depth - 1)
        elif hasattr(leaf, "__dict__") and not isinstance(leaf, (type, nn.Module)) and depth:
            yield from _tensors_in(list(vars(leaf).values()), depth - 1)
