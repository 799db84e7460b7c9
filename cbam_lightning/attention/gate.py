"""What every gate of this package shares: precision, product, and the checks of its arguments."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from cbam_lightning.errors import UsageError, unknown_name

GateName = Literal["sigmoid", "identity"]


class Gate(nn.Module, ABC):
    """A gate computed from the input, and the product of both.

    Logits and gate are computed in float32, also under autocast and for an input in half precision, and in
    float64 for a float64 input. In a module that was itself converted, for example by ``.half()``, the
    layers run in the precision of their weights; pools, sigmoid and product stay in float32.

    Args:
        gate: ``sigmoid``: in (0, 1). ``identity``: 2 * sigmoid, in (0, 2), with logits of exactly 0 at
            initialisation, where the module therefore returns its input bit for bit.
    """

    def __init__(self, gate: GateName = "sigmoid") -> None:
        check_choice("gate", gate, get_args(GateName))
        super().__init__()
        self.gate = gate

    @abstractmethod
    def logits(self, x: Tensor) -> Tensor:
        """Return what the gate's sigmoid is taken of; (N, C, H, W), at least float32, to the gate's shape."""

    def gate_map(self, x: Tensor) -> Tensor:
        """Return the gate for ``x``: (N, C, H, W) to (N, C, 1, 1) or (N, 1, H, W), at least float32."""
        with _without_autocast(x.device.type):
            gate = torch.sigmoid(self.logits(x.to(torch.promote_types(x.dtype, torch.float32))))
        return 2 * gate if self.gate == "identity" else gate

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` times its gate, in the dtype of ``x``: (N, C, H, W) to (N, C, H, W)."""
        return multiply(x, self.gate_map(x))


def multiply(x: Tensor, gate: Tensor) -> Tensor:
    """Return ``x * gate`` in the dtype of ``x``, multiplied in the gate's float32 or float64."""
    # Not with gate.to(x.dtype): the gate's gradient is the sum of x * grad over C or HxW, and in float16
    # that sum passes 65504.
    return (x * gate).to(x.dtype)


def run_layer(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply ``layer`` in the dtype of its weights, and return the result in the dtype of ``x``."""
    output: Tensor = layer(x.to(next(layer.parameters()).dtype))
    return output.to(x.dtype)


def check_positive(option: str, value: int) -> None:
    """Raise a ``UsageError`` unless ``value`` is a whole number of at least 1."""
    if not isinstance(value, int) or value < 1:
        message = f"{option} is {value!r}; give a whole number of at least 1."
        raise UsageError(message)


def check_choice(option: str, value: str, allowed: Iterable[str]) -> None:
    """Raise a ``UsageError`` with the closest match unless ``value`` is among ``allowed``."""
    if value not in tuple(allowed):  # a tuple, since a value from YAML need not be hashable
        raise unknown_name(option, str(value), allowed)


def _without_autocast(device_type: str) -> AbstractContextManager[object]:
    # The meta device has no autocast to ask about; an idle context would only clutter exported graphs.
    if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()
