"""What every gate of this package shares: precision, product, and the checks of its arguments."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from cbam_lightning.attention import positions
from cbam_lightning.checks import check_choice

GateName = Literal["sigmoid", "identity"]


class Gate(nn.Module, ABC):
    """A gate computed from the input, and the product of both.

    Logits and gate are computed in float32, also under autocast and for an input in half precision, and in
    float64 for a float64 input. In a module that was itself converted, for example by ``.half()``, the
    layers run in the precision of their weights; pools, sigmoid and product stay in float32.

    Args:
        gate: ``sigmoid``: in (0, 1). ``identity``: 2 * sigmoid, in (0, 2), with logits of exactly 0 at
            initialisation, where the module therefore returns its input bit for bit.
        dims: How many dimensions the positions of the input have, 1 to 3; None where any will do.

    Raises:
        UsageError: An unknown gate, or another number of dimensions; in ``forward`` and ``gate_map``, an
            input with another number of dimensions.

    Attributes:
        kind: What the gate depends on besides the image: the channel, the position, or both.
    """

    kind: ClassVar[Literal["channel", "spatial", "both"]] = "channel"

    def __init__(self, gate: GateName = "sigmoid", dims: positions.Dims | None = None) -> None:
        check_choice("gate", gate, get_args(GateName))
        if dims is not None:
            positions.check_dims(dims)
        super().__init__()
        self.gate = gate
        self.dims = dims

    @abstractmethod
    def logits(self, x: Tensor) -> Tensor:
        """Return what the sigmoid is taken of: (N, C, *positions), at least float32, to the gate's shape."""

    def gate_map(self, x: Tensor) -> Tensor:
        """Return the gate for ``x``, at least float32.

        From (N, C, *positions) to the same, with 1 in place of C or of the positions where the gate does not
        depend on them.
        """
        positions.check_feature_map(self, x, self.dims)
        with without_autocast(x.device.type):
            gate = torch.sigmoid(self.logits(at_least_float32(x)))
        return gate if self.factor == 1 else self.factor * gate

    def gate_maps(self, x: Tensor) -> dict[str, Tensor]:
        """Return ``gate_map`` under the name of its kind."""
        return {self.kind: self.gate_map(x)}

    @property
    def factor(self) -> float:
        """What the sigmoid is multiplied with to give the gate."""
        return 2.0 if self.gate == "identity" else 1.0

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` times its gate, in the dtype of ``x``: (N, C, *positions) to the same."""
        return multiply(x, self.gate_map(x))


def multiply(x: Tensor, gate: Tensor) -> Tensor:
    """Return ``x * gate`` in the dtype of ``x``, multiplied in the gate's float32 or float64."""
    # Not with gate.to(x.dtype): the gate's gradient is the sum of x * grad over C or the positions, and in
    # float16 that sum passes 65504.
    return (x * gate).to(x.dtype)


def has_hooks(module: nn.Module) -> bool:
    """Tell whether somebody registered a hook on this very module, not on those below."""
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    return any(hooks)


def run_layer(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply ``layer`` in the dtype of its weights, and return the result in the dtype of ``x``."""
    output: Tensor = layer(x.to(next(layer.parameters()).dtype))
    return output.to(x.dtype)


def at_least_float32(x: Tensor) -> Tensor:
    """Return ``x`` in float32, or in float64 if that is what it is in."""
    # Not torch.promote_types, which torch.export keeps as an operation of the graph.
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def wide_dtype(x: Tensor) -> torch.dtype:
    """Return float64 if that is what ``x`` is in, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def without_autocast(device_type: str) -> AbstractContextManager[object]:
    """Return a context in which autocast is off for this type of device, such as ``cuda``."""
    # The meta device has no autocast to ask about; an idle context would only clutter exported graphs.
    if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()
