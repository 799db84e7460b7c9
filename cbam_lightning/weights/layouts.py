"""How others name the values of a network with attention: one table a layout.

A rename is a regular expression and its replacement, applied to every key in the order of the table; a
change is a regular expression of our keys and what happens to their values. The names of the ResNet itself
are torchvision's in all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor


class Layout(NamedTuple):
    """One way to name and to store the same values.

    Attributes:
        origin: Who writes such files, for people.
        sign: Regular expression that finds a key which no other layout has.
        renames: Regular expressions and replacements, from their keys to ours.
        changes: Regular expressions of our keys, and what makes our value of theirs.
        lacks: What their modules may do without: ``bias`` in the channel half's MLP, ``bn`` in the spatial
            half.
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


# Convolutions in place of linear layers, and the mean over the channels before their maximum.
_CONVOLUTIONS = (
    (r"(^|\.)mlp\.[02]\.weight$", _linear_from_conv1x1),
    (r"(^|\.)spatial\.conv\.weight$", _max_before_mean),
)

# BAM's layers, theirs to ours: `channel_att.gate_c.gate_c_fc_0` is `channel.fc1`.
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
                (rf"(^|\.)channel_att\.gate_c\.gate_c_{theirs}\.", rf"\1channel.{ours}.")
                for theirs, ours in _BAM_CHANNEL.items()
            ),
            *(
                (rf"(^|\.)spatial_att\.gate_s\.gate_s_{theirs}\.", rf"\1spatial.{ours}.")
                for theirs, ours in _BAM_SPATIAL.items()
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
