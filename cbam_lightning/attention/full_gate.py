"""Gates with a value for every channel at every position: up to as large as the map itself."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from cbam_lightning.attention import positions
from cbam_lightning.attention.gate import Gate, Kind, without_autocast
from cbam_lightning.attention.half_precision import recomputed


class FullGate(Gate):
    """A gate (N, C, *positions), or one that broadcasts to it, computed from smaller parts.

    For a map in half precision the gate is not kept for the backward pass, but computed again from its parts.
    """

    kind: Kind = "both"

    @abstractmethod
    def parts(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute what ``combine`` needs besides the map, at least float32 and with few elements."""

    @abstractmethod
    def combine(self, x: Tensor, *parts: Tensor) -> Tensor:
        """Return the gate, at least float32, without using a parameter."""

    def compute_gate(self, x: Tensor) -> Tensor:
        """Compute the gate: (N, C, *positions) to the same."""
        return self.combine(x, *self.parts(x))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` times its gate, in the dtype of ``x``: (N, C, *positions) to the same."""
        if type(self).compute_gate is not FullGate.compute_gate:  # a subclass with another gate
            return super().forward(x)
        positions.check_feature_map(self, x, self.dims)
        with without_autocast(x.device.type):
            return recomputed(self._multiply, x, *self.parts(x)).to(x.dtype)

    def _multiply(self, x: Tensor, *parts: Tensor) -> Tensor:
        return x * self.combine(x, *parts)
