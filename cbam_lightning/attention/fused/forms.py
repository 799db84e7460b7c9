"""Fused forward passes of CBAM and SE: compiled passes, or Triton kernels where these run.

In the compiled passes, convolution, BatchNorm and ReLU of the spatial gate are called as modules, see
``attend.py``; only the convolution has to be of the known kind.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from cbam_lightning.attention.cbam import CBAM, SpatialAttention
from cbam_lightning.attention.fused.attend import attend
from cbam_lightning.attention.fused.convolution import convolve
from cbam_lightning.attention.fused.kernel_forms import kernels_for
from cbam_lightning.attention.fused.known_gates import KnownGates, known_gates
from cbam_lightning.attention.gate import run_layer
from cbam_lightning.attention.implementation import FusedForm, register_fused_form
from cbam_lightning.attention.squeeze_excite import SqueezeExcite


@register_fused_form(CBAM)
@register_fused_form(SqueezeExcite)
def find_form(module: CBAM | SqueezeExcite) -> FusedForm | None:
    """Return the fused forward passes of a module in its current state, or None."""
    gates = known_gates(module)
    return gates and FusedForm(partial(_run_passes, gates), partial(kernels_for, gates))


def spatial_logits(gate: SpatialAttention, maps: Tensor) -> Tensor:
    """Return a spatial gate's logits, (N, 1, *positions), given maximum and mean, (N, 2, *positions)."""
    logits: Tensor = gate.relu(run_layer(gate.bn, convolve(gate.conv, maps)))
    return logits


def _run_passes(gates: KnownGates, x: Tensor) -> Tensor:
    gates.check(x)
    to_logits = partial(spatial_logits, gates.spatial) if gates.spatial else None
    return attend(x, gates.order, gates.mlp, to_logits, maximum=gates.maximum, factor=gates.factor)
