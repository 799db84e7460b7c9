"""Fused forward passes of CBAM and SE, and the states of a module in which they apply.

Hooks on a part, or layers that were replaced, need the plain operations. Convolution and BatchNorm of the
spatial gate are the exception: they stay modules in the fused form, see ``attend.py``.
"""

from __future__ import annotations

from functools import partial
from typing import cast

from torch import Tensor, nn

from cbam_lightning.attention import positions
from cbam_lightning.attention.cbam import CBAM, ChannelAttention, SpatialAttention
from cbam_lightning.attention.fused.attend import attend
from cbam_lightning.attention.fused.convolution import convolve, has_hooks
from cbam_lightning.attention.fused.operations import Excitation
from cbam_lightning.attention.gate import run_layer
from cbam_lightning.attention.implementation import Forward, find_fused_form
from cbam_lightning.attention.squeeze_excite import SqueezeExcite


@find_fused_form.register
def _(module: CBAM) -> Forward | None:
    if not all(map(_has_fused_form, module.gates)):
        return None
    channel, spatial = (getattr(module, name, None) for name in ("channel", "spatial"))
    return partial(_forward, module.arrangement, channel, spatial)


@find_fused_form.register
def _(module: SqueezeExcite) -> Forward | None:
    return partial(_forward, "channel", module, None) if _has_fused_form(module) else None


def mlp_of(gate: ChannelAttention) -> Excitation:
    """Return the weights and biases of a channel gate's MLP."""
    first, _, second = cast("tuple[nn.Linear, nn.ReLU, nn.Linear]", gate.mlp)
    return Excitation(first.weight, first.bias, second.weight, second.bias)


def spatial_logits(gate: SpatialAttention, maps: Tensor) -> Tensor:
    """Return a spatial gate's logits, (N, 1, *positions), given maximum and mean, (N, 2, *positions)."""
    logits: Tensor = gate.relu(run_layer(gate.bn, convolve(gate.conv, maps)))
    return logits


def _forward(
    order: str, channel: ChannelAttention | None, spatial: SpatialAttention | None, x: Tensor
) -> Tensor:
    gates = [gate for gate in (channel, spatial) if gate is not None]
    for gate in gates:
        positions.check_feature_map(gate, x, gate.dims)
    return attend(
        x,
        order,
        mlp_of(channel) if channel else None,
        partial(spatial_logits, spatial) if spatial else None,
        maximum=channel is not None and "max" in channel.pools,
        factor=gates[0].factor,
    )


def _has_fused_form(gate: ChannelAttention | SpatialAttention) -> bool:
    if isinstance(gate, ChannelAttention):
        is_original = [type(layer) for layer in gate.mlp] == [nn.Linear, nn.ReLU, nn.Linear]
        has_known_pools = "avg" in gate.pools and {"avg", "max"}.issuperset(gate.pools)
        return is_original and has_known_pools and not any(map(has_hooks, (gate, gate.mlp, *gate.mlp)))
    conv = cast("nn.Conv2d", gate.conv)
    is_original = type(conv) in positions.CONVOLUTIONS.values() and set(conv.dilation) == {1}
    return is_original and gate.spatial_pool == "avg+max" and not has_hooks(gate)
