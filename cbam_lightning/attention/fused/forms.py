"""Fused forward passes of CBAM and SE, and the states of a module in which they apply.

They hold for exactly these classes with exactly their own gates and layers. Subclasses, hooks on a part, and
parts or methods that were replaced need the plain operations. Convolution, BatchNorm and ReLU of the spatial
gate are called as modules, see ``attend.py``; only the convolution has to be of the known kind.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

from torch import Tensor, nn

from cbam_lightning.attention import positions
from cbam_lightning.attention.cbam import CBAM, ChannelAttention, SpatialAttention
from cbam_lightning.attention.fused.attend import attend
from cbam_lightning.attention.fused.convolution import convolve
from cbam_lightning.attention.fused.operations import Excitation
from cbam_lightning.attention.fused.originals import is_original, is_plain
from cbam_lightning.attention.gate import run_layer
from cbam_lightning.attention.implementation import Forward, register_fused_form
from cbam_lightning.attention.squeeze_excite import SqueezeExcite


@register_fused_form(CBAM)
def _find_form_of_cbam(module: CBAM) -> Forward | None:
    channel = None if module.arrangement == "spatial" else module.channel
    spatial = None if module.arrangement == "channel" else module.spatial
    if channel and not (is_plain(channel, ChannelAttention) and _has_known_parts(channel)):
        return None
    if spatial and not (is_plain(spatial, SpatialAttention) and _has_known_convolution(spatial)):
        return None
    if channel and spatial and channel.factor != spatial.factor:
        return None
    return partial(_forward, module.arrangement, channel, spatial)


@register_fused_form(SqueezeExcite)
def _find_form_of_se(module: SqueezeExcite) -> Forward | None:
    is_known = is_plain(module, SqueezeExcite) and _has_known_parts(module)
    return partial(_forward, "channel", module, None) if is_known else None


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


def _has_known_parts(gate: ChannelAttention) -> bool:
    kinds = (nn.Linear, nn.ReLU, nn.Linear)
    return (
        is_plain(gate.mlp, nn.Sequential)
        and len(gate.mlp) == len(kinds)
        and all(map(is_plain, gate.mlp, kinds))
        and all(isinstance(parameter, Tensor) for parameter in mlp_of(gate))
        and "avg" in gate.pools
        and {"avg", "max"}.issuperset(gate.pools)
    )


def _has_known_convolution(gate: SpatialAttention) -> bool:
    conv: Any = gate.conv
    return (
        gate.spatial_pool == "avg+max"
        and gate.dims is not None
        and is_original(conv, positions.CONVOLUTIONS[gate.dims])
        and (conv.in_channels, conv.out_channels, conv.groups, conv.bias) == (2, 1, 1, None)
        and {*conv.stride, *conv.dilation} == {1}
        and conv.padding_mode == "zeros"
        and conv.padding == tuple(side // 2 for side in conv.kernel_size)
        and all(side % 2 for side in conv.kernel_size)
    )
