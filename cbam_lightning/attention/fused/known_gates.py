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


class KnownGates(NamedTuple):
    """The gates of a module.

    Attributes:
        order: An ``Arrangement`` of CBAM.
        channel: The channel gate; None if there is none.
        spatial: The spatial gate; None if there is none.
    """

    order: str
    channel: ChannelAttention | None
    spatial: SpatialAttention | None

    @property
    def maximum(self) -> bool:
        """Whether the channel gate pools the maximum, besides the mean."""
        return self.channel is not None and "max" in self.channel.pools

    @property
    def factor(self) -> float:
        """Factor of the sigmoids."""
        gate = self.channel or self.spatial
        return gate.factor if gate else 1.0

    @property
    def mlp(self) -> Excitation | None:
        """Weights and biases of the channel gate's MLP."""
        return mlp_of(self.channel) if self.channel else None

    def check(self, x: Tensor) -> None:
        """Raise a ``UsageError`` unless ``x`` is a feature map for these gates."""
        for gate in (self.channel, self.spatial):
            if gate is not None:
                positions.check_feature_map(gate, x, gate.dims)


def known_gates(module: nn.Module) -> KnownGates | None:
    """Return the gates of a CBAM or SE whose parts are all known, otherwise None."""
    if type(module) is SqueezeExcite:
        known = is_plain(module, SqueezeExcite) and _has_known_parts(module)
        return KnownGates("channel", module, None) if known else None
    cbam = cast(CBAM, module)
    channel = None if cbam.arrangement == "spatial" else cbam.channel
    spatial = None if cbam.arrangement == "channel" else cbam.spatial
    if channel and not (is_plain(channel, ChannelAttention) and _has_known_parts(channel)):
        return None
    if spatial and not (is_plain(spatial, SpatialAttention) and _has_known_convolution(spatial)):
        return None
    if channel and spatial and channel.factor != spatial.factor:
        return None
    return KnownGates(cbam.arrangement, channel, spatial)


def mlp_of(gate: ChannelAttention) -> Excitation:
    """Return the weights and biases of a channel gate's MLP."""
    first, _, second = cast("tuple[nn.Linear, nn.ReLU, nn.Linear]", gate.mlp)
    return Excitation(first.weight, first.bias, second.weight, second.bias)


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
