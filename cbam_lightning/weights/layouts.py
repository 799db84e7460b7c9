"""Layouts: how other code names the values of a network with attention, one table per layout.

A rename is a regular expression and its replacement, applied to every key in the order of the table; a
change is a regular expression for our keys and a conversion of their values. All layouts use torchvision's
names for the ResNet itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor


class Layout(NamedTuple):
    """A way to name and store the values of a network.

    Attributes:
        origin: Description of the code that writes such files.
        sign: Regular expression for keys that no other layout has.
        renames: Regular expressions and replacements, from the layout's keys to ours.
        changes: Regular expressions for our keys, and the conversion of the layout's values to ours.
        lacks: Values that the layout may lack: ``bias`` of the MLP in channel attention, ``bn`` in spatial
            attention.
    """

    origin: str
    sign: str
    renames: tuple[tuple[str, str], ...] = ()
    changes: tuple[tuple[str, Callable[[Tensor], Tensor]], ...] = ()
    lacks: frozenset[str] = frozenset()


def _linear_from_conv1x1(weight: Tensor) -> Tensor:
    return weight.flatten(1)  # (out, in, 1, 1) to (out, in)


def _max_before_mean(weight: Tensor) -> Tensor:
    return weight.flip(1)  # (1, 2, k, k)


# Convolutions instead of linear layers, and the channel mean before the channel maximum.
_CONVOLUTIONS = (
    (r"(^|\.)mlp\.[02]\.weight$", _linear_from_conv1x1),
    (r"(^|\.)spatial\.conv\.weight$", _max_before_mean),
)

# BAM's layers, from the authors' to ours: `channel_att.gate_c.gate_c_fc_0` is `channel.fc1`.
_BAM_CHANNEL = {"fc_0": "fc1", "bn_1": "bn", "fc_final": "fc2"}
_BAM_SPATIAL = {
    "conv_reduce0": "reduce",
    "bn_reduce0": "reduce_bn",
    "conv_di_0": "conv1",
    "bn_di_0": "bn1",
    "conv_di_1": "conv2",
    "bn_di_1": "bn2",
    "conv_final": "final",
}

LAYOUTS: Mapping[str, Layout] = {
    # https://github.com/Jongchan/attention-module: MODELS/cbam.py, bam.py, model_resnet.py
    "authors": Layout(
        "the authors of CBAM and BAM",
        r"(^|\.)(ChannelGate\.mlp|SpatialGate\.spatial|channel_att\.gate_c|spatial_att\.gate_s)\.",
        (
            (r"(^|\.)cbam\.(?=ChannelGate|SpatialGate)", r"\1attention."),
            (r"(^|\.)ChannelGate\.mlp\.1\.", r"\1channel.mlp.0."),
            (r"(^|\.)ChannelGate\.mlp\.3\.", r"\1channel.mlp.2."),
            (r"(^|\.)SpatialGate\.spatial\.", r"\1spatial."),
            (r"^bam(\d+)\.", r"attention.layer\1."),
            *(
                (rf"(^|\.)channel_att\.gate_c\.gate_c_{layer}\.", rf"\1channel.{our_layer}.")
                for layer, our_layer in _BAM_CHANNEL.items()
            ),
            *(
                (rf"(^|\.)spatial_att\.gate_s\.gate_s_{layer}\.", rf"\1spatial.{our_layer}.")
                for layer, our_layer in _BAM_SPATIAL.items()
            ),
        ),
    ),
    # https://github.com/luuuyi/CBAM.PyTorch: model/resnet_cbam.py; the two layers are `fc1` and `fc2` in its
    # early versions, `fc.0` and `fc.2` later
    "luuuyi": Layout(
        "luuuyi/CBAM.PyTorch",
        r"(^|\.)(ca\.fc(1|2|\.0|\.2)|sa\.conv1)\.weight$",
        (
            (r"^ca\.fc(?:1|\.0)\.", "channel.mlp.0."),
            (r"^ca\.fc(?:2|\.2)\.", "channel.mlp.2."),
            (r"^sa\.conv1\.", "spatial.conv."),
            (r"\.ca\.fc(?:1|\.0)\.", ".attention.channel.mlp.0."),
            (r"\.ca\.fc(?:2|\.2)\.", ".attention.channel.mlp.2."),
            (r"\.sa\.conv1\.", ".attention.spatial.conv."),
        ),
        _CONVOLUTIONS,
        frozenset({"bias", "bn"}),
    ),
    # https://github.com/huggingface/pytorch-image-models: timm/layers/cbam.py, squeeze_excite.py
    "timm": Layout(
        "timm",
        r"(^|\.)(spatial\.conv\.conv|se\.(channel\.)?fc[12])\.",
        (
            (r"(^|\.)se\.(?=channel|spatial|fc)", r"\1attention."),
            (r"(^|\.)channel\.fc1\.", r"\1channel.mlp.0."),
            (r"(^|\.)channel\.fc2\.", r"\1channel.mlp.2."),
            (r"(^|\.)spatial\.conv\.(conv|bn)\.", r"\1spatial.\2."),
            (r"(^|\.)attention\.fc1\.", r"\1attention.mlp.0."),
            (r"(^|\.)attention\.fc2\.", r"\1attention.mlp.2."),
        ),
        _CONVOLUTIONS,
        frozenset({"bias"}),
    ),
    "cbam_lightning": Layout("cbam_lightning", r"(^|\.)attention\.|(^|\.)channel\.mlp\.0\."),
    # plain networks of timm as well: their names are the same
    "torchvision": Layout("torchvision or timm, without attention", r"^layer1\.0\.conv1\.weight$"),
}
