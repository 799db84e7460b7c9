"""Layouts: how other code names the values of a network with attention, one table per layout.

A rename is a regular expression and its replacement, applied to every key in the order of the table; a
change is a regular expression for our keys and a conversion of their values. All layouts use torchvision's
names for the ResNet itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
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
        alone: Regular expression that matches all keys of a lone module without a sign.
        assumed: What no key or shape shows, and is assumed.
    """

    origin: str
    sign: str
    renames: tuple[tuple[str, str], ...] = ()
    changes: tuple[tuple[str, Callable[[Tensor], Tensor]], ...] = ()
    lacks: frozenset[str] = frozenset()
    alone: str = "(?!)"
    assumed: str = ""


# Convolutions instead of linear layers, and the channel mean before the channel maximum.
_CONVOLUTIONS = (
    (r"(^|\.)mlp\.[02]\.weight$", partial(torch.flatten, start_dim=1)),  # (out, in, 1, 1) to (out, in)
    (r"(^|\.)spatial\.conv\.weight$", partial(torch.flip, dims=(1,))),  # (1, 2, k, k)
)

# The start of a key in an attention module: of a network, or alone
_INSIDE = r"(^|(?:^|\.)attention\.)"

# BAM's layers, from the authors' names to ours
_AUTHORS_BAM = {
    "channel_att.gate_c.gate_c_fc_0": "channel.fc1",
    "channel_att.gate_c.gate_c_bn_1": "channel.bn",
    "channel_att.gate_c.gate_c_fc_final": "channel.fc2",
    "spatial_att.gate_s.gate_s_conv_reduce0": "spatial.reduce",
    "spatial_att.gate_s.gate_s_bn_reduce0": "spatial.reduce_bn",
    "spatial_att.gate_s.gate_s_conv_di_0": "spatial.conv1",
    "spatial_att.gate_s.gate_s_bn_di_0": "spatial.bn1",
    "spatial_att.gate_s.gate_s_conv_di_1": "spatial.conv2",
    "spatial_att.gate_s.gate_s_bn_di_1": "spatial.bn2",
    "spatial_att.gate_s.gate_s_conv_final": "spatial.final",
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
            *((rf"(^|\.){re.escape(key)}\.", rf"\1{our_key}.") for key, our_key in _AUTHORS_BAM.items()),
        ),
    ),
    # https://github.com/luuuyi/CBAM.PyTorch: model/resnet_cbam.py; the two layers are `fc1` and `fc2` in its
    # early versions, `fc.0` and `fc.2` later
    "luuuyi": Layout(
        "luuuyi/CBAM.PyTorch",
        r"(^|\.)(ca\.fc(1|2|\.0|\.2)|sa\.conv1)\.weight$",
        (
            (r"\.(?=ca\.fc|sa\.conv1)", ".attention."),
            (r"(^|\.)ca\.fc(?:1|\.0)\.", r"\1channel.mlp.0."),
            (r"(^|\.)ca\.fc(?:2|\.2)\.", r"\1channel.mlp.2."),
            (r"(^|\.)sa\.conv1\.", r"\1spatial.conv."),
        ),
        _CONVOLUTIONS,
        frozenset({"bias", "bn"}),
    ),
    # https://github.com/huggingface/pytorch-image-models: timm/layers/cbam.py, eca.py, squeeze_excite.py
    "timm": Layout(
        "timm",
        r"(^|\.)(layer\d+\.\d+\.se|spatial\.conv\.conv)\.",
        (
            (r"(^|\.)se\.", r"\1attention."),
            (rf"{_INSIDE}(channel\.)?fc1\.", r"\1\2mlp.0."),
            (rf"{_INSIDE}(channel\.)?fc2\.", r"\1\2mlp.2."),
            (rf"{_INSIDE}spatial\.conv\.(conv|bn)\.", r"\1spatial.\2."),
        ),
        _CONVOLUTIONS,
        frozenset({"bias"}),
        r"(fc[12]|channel\.fc[12])\.(weight|bias)|conv\.weight",
        "timm's defaults: average pools alone (cbam: and maxima), ReLU, sigmoid, zero padding (not ceca), no "
        "anti-aliasing (not resnetblur), no dilation",
    ),
    "cbam_lightning": Layout("cbam_lightning", r"(^|\.)attention\.|(^|\.)channel\.mlp\.0\."),
    # plain networks of timm as well: their names are the same
    "torchvision": Layout(
        "torchvision or timm, without attention",
        r"^layer1\.0\.conv1\.weight$",
        assumed="ReLU, no anti-aliasing (not resnetblur), no dilation",
    ),
}
