"""The gates of CBAM and SE that the fused forms know.

They hold for exactly these classes with exactly their own gates and layers. Subclasses, hooks on a part, and
parts or methods that were replaced need the plain operations.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

from torch import Tensor, nn

from cbam_lightning.attention import positions
from cbam_lightning.attention.cbam import CBAM, ChannelAttention, SpatialAttention
from cbam_lightning.attention.fused.operations import Excitation
from cbam_lightning.attention.fused.originals import is_original, is_plain
from cbam_lightning.attention.squeeze_excite import SqueezeExcite

_MLP = (nn.Linear, nn.ReLU, nn.Linear)


class KnownGates(NamedTuple):
    """The gates of a module.

    Attributes:
        order: An ``Arrangement`` of CBAM.
        channel: The channel gate; None if there is none.
        spatial: The spatial gate; None if there is none.
        mlp: Weights and biases of the channel gate's MLP.
    """

    order: str
    channel: ChannelAttention | None
    spatial: SpatialAttention | None
    mlp: Excitation | None

    @property
    def maximum(self) -> bool:
        """Whether the channel gate pools the maximum, besides the mean."""
        return self.channel is not None and "max" in self.channel.pools

    @property
    def factor(self) -> float:
        """Factor of the sigmoids."""
        gate = self.channel or self.spatial
        return gate.factor if gate else 1.0

    def check(self, x: Tensor) -> None:
        """Raise a ``UsageError`` unless ``x`` is a feature map for these gates."""
        for gate in (self.channel, self.spatial):
            if gate is not None:
                positions.check_feature_map(gate, x, gate.dims)


def known_gates(module: nn.Module) -> KnownGates | None:
    """Return the gates of a CBAM or SE whose parts are all known, otherwise None."""
    if type(module) is SqueezeExcite:
        mlp = _known_mlp(module) if is_plain(module, SqueezeExcite) else None
        return mlp and KnownGates("channel", module, None, mlp)
    order, parts = cast(CBAM, module).arrangement, cast(Any, module._modules)
    channel = None if order == "spatial" else parts["channel"]
    spatial = None if order == "channel" else parts["spatial"]
    mlp = None
    if channel:
        mlp = _known_mlp(channel) if is_plain(channel, ChannelAttention) else None
        if mlp is None:
            return None
    if spatial and not (is_plain(spatial, SpatialAttention) and _has_known_convolution(spatial)):
        return None
    if channel and spatial and channel.factor != spatial.factor:
        return None
    return KnownGates(order, channel, spatial, mlp)


def mlp_of(gate: ChannelAttention) -> Excitation:
    """Return the weights and biases of a channel gate's MLP."""
    first, _, second = cast("tuple[nn.Linear, nn.ReLU, nn.Linear]", gate.mlp)
    return Excitation(first.weight, first.bias, second.weight, second.bias)


def _known_mlp(gate: ChannelAttention) -> Excitation | None:
    """Return the weights and biases of a channel gate if all its parts are known, otherwise None."""
    mlp: Any = gate._modules.get("mlp")
    if not is_plain(mlp, nn.Sequential):
        return None
    layers, pools = tuple(mlp._modules.values()), gate.pools
    if not (len(layers) == len(_MLP) and all(map(is_plain, layers, _MLP))):
        return None
    # Straight from where they are kept: this runs at every call of a module.
    first, _, second = (layer._parameters for layer in layers)
    found = (first.get("weight"), first.get("bias"), second.get("weight"), second.get("bias"))
    if (
        any(parameter is None for parameter in found)
        or "avg" not in pools
        or not {"avg", "max"}.issuperset(pools)
    ):
        return None
    return Excitation(*found)


def _has_known_convolution(gate: SpatialAttention) -> bool:
    conv: Any = gate._modules.get("conv")
    return (
        gate.spatial_pool == "avg+max"
        and gate.dims is not None
        and is_original(conv, positions.CONVOLUTIONS[gate.dims])
        and (conv.in_channels, conv.out_channels, conv.groups) == (2, 1, 1)
        and conv._parameters.get("bias") is None
        and {*conv.stride, *conv.dilation} == {1}
        and conv.padding_mode == "zeros"
        and conv.padding == tuple(side // 2 for side in conv.kernel_size)
        and all(side % 2 for side in conv.kernel_size)
    )
