"""Base class of the gates, and the precision that all attention modules compute in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from cbam_lightning.attention import positions
from cbam_lightning.attention.scripting import refuse_scripting
from cbam_lightning.checks import check_choice

GateName = Literal["sigmoid", "identity"]
Kind = Literal["channel", "spatial", "both"]
_HALF = (torch.float16, torch.bfloat16)


class Gate(nn.Module, ABC):
    """A gate computed from the input and multiplied with it.

    Gates are computed in float32, also under autocast, for inputs in half precision and in a module that was
    converted by ``.half()``, and in float64 for float64 inputs. The backward pass keeps a map in half
    precision as it came, see ``half_precision.py``.

    Args:
        gate: One of ``gates``. ``sigmoid``: in (0, 1). ``identity``: 2 * sigmoid, in (0, 2). Its logits are
            exactly 0 at initialisation, so the module returns its input bit for bit.
        dims: Number of position dimensions of the input, 1 to 3. None: any of them.

    Raises:
        UsageError: An unknown gate or an invalid number of dimensions. In ``forward`` and ``gate_map``: an
            input that is no tensor of floating-point numbers, or has another number of dimensions.

    Attributes:
        kind: What the gate depends on besides the image: the channel, the position, or both.
        gates: What the option ``gate`` may be.
    """

    kind: Kind = "channel"
    gates: ClassVar[tuple[str, ...]] = get_args(GateName)
    __prepare_scriptable__ = refuse_scripting

    def __init__(self, gate: str = "sigmoid", dims: positions.Dims | None = None) -> None:
        check_choice("gate", gate, self.gates)
        if dims is not None:
            positions.check_dims(dims)
        super().__init__()
        self.gate = gate
        self.dims = dims

    @abstractmethod
    def compute_gate(self, x: Tensor) -> Tensor:
        """Compute the gate from ``x``, (N, C, *positions), of any precision, with autocast off.

        Returns:
            The gate, at least float32.
        """

    def sigmoid(self, logits: Tensor) -> Tensor:
        """Turn logits into gate values: the sigmoid, times 2 for the gate ``identity``."""
        gate = torch.sigmoid(logits)
        return gate if self.factor == 1 else self.factor * gate

    @property
    def factor(self) -> float:
        """Factor of the sigmoid: 2 for the gate ``identity``, else 1."""
        return 2.0 if self.gate == "identity" else 1.0

    def gate_map(self, x: Tensor) -> Tensor:
        """Return the gate for ``x``, at least float32.

        Its shape is that of ``x``, (N, C, *positions), with 1 in place of C or of the positions where the
        gate does not depend on them.
        """
        positions.check_feature_map(self, x, self.dims)
        with without_autocast(x.device.type):
            return self.compute_gate(x)

    def gate_maps(self, x: Tensor) -> dict[str, Tensor]:
        """Return ``gate_map`` by the name of its kind."""
        return {self.kind: self.gate_map(x)}

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` times its gate, in the dtype of ``x``: (N, C, *positions) to the same."""
        return multiply(x, self.gate_map(x))


def multiply(x: Tensor, gate: Tensor) -> Tensor:
    """Multiply in the gate's float32 or float64, and return the product in the dtype of ``x``."""
    # Not with gate.to(x.dtype): the gate's gradient is the sum of x * grad over C or the positions, and in
    # float16 that sum exceeds 65504.
    return (x * gate).to(x.dtype)


def run_layer(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply ``layer`` in the dtype of its weights, at least float32, and return it in the dtype of ``x``."""
    if has_half_weights(layer):
        return run_in_float32(layer, x.float()).to(x.dtype)
    # A quantised layer has no parameters or whole numbers, and takes the dtype that it was converted from.
    dtypes = (parameter.dtype for parameter in layer.parameters() if parameter.is_floating_point())
    output: Tensor = layer(x.to(next(dtypes, x.dtype)))
    return output.to(x.dtype)


def has_half_weights(layer: nn.Module) -> bool:
    """Return whether ``layer`` was converted to half precision, and can be run in another."""
    dtype = next((parameter.dtype for parameter in layer.parameters()), None)
    # A layer that torch.jit.trace records cannot be called with other weights.
    return dtype in _HALF and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


def run_in_float32(layer: nn.Module, x: Tensor) -> Tensor:
    """Return ``layer(x)`` with copies in float32 of what the layer has in half precision.

    Its sums can exceed 65504, float16's largest number, long before its results do.
    """
    own = dict(layer.named_parameters()) | dict(layer.named_buffers())
    wide = {name: tensor.float() for name, tensor in own.items() if tensor.dtype in _HALF}
    output: Tensor = torch.func.functional_call(layer, wide, x)
    if layer.training:
        with torch.no_grad():
            for name, buffer in layer.named_buffers():  # the running statistics
                if name in wide:
                    buffer.copy_(wide[name])
    return output


def at_least_float32(x: Tensor) -> Tensor:
    """Return ``x`` as it is if it is float64, else in float32."""
    # Not torch.promote_types, which torch.export keeps as an operation of the graph.
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def wide_dtype(x: Tensor) -> torch.dtype:
    """Return float64 if ``x`` is float64, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def without_autocast(device_type: str) -> AbstractContextManager[object]:
    """Return a context that turns autocast off for a type of device, such as ``cuda``."""
    # Not torch.amp.is_autocast_available, which breaks the graph of torch.compile (torch 2.11). The meta
    # device has no autocast to query, and an idle context would clutter exported graphs.
    if device_type != "meta" and torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()
