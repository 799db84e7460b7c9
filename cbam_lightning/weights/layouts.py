"""Layouts: how other code names the values of a network with attention, one table per layout.

A rename is a regular expression and its replacement, applied to every key in the order of the table; a
change is a regular expression for the layout's keys and a conversion of their values. All layouts use
torchvision's names for the ResNet itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Layout(NamedTuple):
    """A way to name and store the values of a network.

    Attributes:
        origin: Description of the code that writes such files.
        sign: Regular expression for keys that no other layout has.
        renames: Regular expressions and replacements, from the layout's keys to ours.
        changes: Regular expressions for the layout's keys, and the conversion of their values to ours.
        lacks: Values that the layout may lack: ``bias`` of the MLP in channel attention, ``bn`` in spatial
            attention.
        alone: Regular expression that matches all keys of a lone module without a sign.
        drops: Regular expression for keys whose values have no effect.
        implied: Regular expressions for keys with their shapes, such as ``fc.weight (5, 64)``, and options of
            our attention that they imply.
        refused: Likewise, and why no attention of ours computes the same.
        assumed: What no key or shape shows, and is assumed.
    """

    origin: str
    sign: str
    renames: tuple[tuple[str, str], ...] = ()
    changes: tuple[tuple[str, Callable[[Tensor], Tensor]], ...] = ()
    lacks: frozenset[str] = frozenset()
    alone: str = "(?!)"
    drops: str = "(?!)"
    implied: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    assumed: str = ""


_LINEAR = partial(torch.flatten, start_dim=1)  # (out, in, 1, 1), a convolution, to (out, in)
_MAXIMUM_FIRST = partial(torch.flip, dims=(1,))  # (1, 2, k, k), the channel mean before the channel maximum

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
        (
            (r"(^|\.)ca\.fc(1|2|\.0|\.2)\.weight$", _LINEAR),
            (r"(^|\.)sa\.conv1\.weight$", _MAXIMUM_FIRST),
        ),
        frozenset({"bias", "bn"}),
    ),
    # https://github.com/huggingface/pytorch-image-models: timm/layers/cbam.py, eca.py,
    # gather_excite.py, global_context.py, squeeze_excite.py
    "timm": Layout(
        "timm",
        r"(^|\.)(layer\d+\.\d+\.se|spatial\.conv\.conv)\.",
        alone=r"conv\.weight|(fc[12]?|channel\.fc[12]|conv_attn|mlp_(add|scale)\.\w+|gather\.\w+|mlp\.fc[12])\.\w+",
        renames=(
            (r"(^|\.)se\.", r"\1attention."),
            (rf"{_INSIDE}(channel\.)?fc1\.", r"\1\2mlp.0."),
            (rf"{_INSIDE}(channel\.)?fc2\.", r"\1\2mlp.2."),
            (rf"{_INSIDE}spatial\.conv\.(conv|bn)\.", r"\1spatial.\2."),
            (rf"{_INSIDE}conv_attn\.", r"\1attend."),
            (rf"{_INSIDE}mlp_(?:add|scale)\.", r"\1mlp."),
            (rf"{_INSIDE}gather\.norm(\d)\.", r"\1gather.bn\2."),
        ),
        changes=(
            # not mlp.fc1 and mlp.fc2 of gather-excite, which slide over a map here, too
            (r"(?<!\bmlp\.)\bfc[12]?\.weight$", _LINEAR),
            (r"\bspatial\.conv\.conv\.weight$", _MAXIMUM_FIRST),
            (r"\bconv_attn\.weight$", partial(torch.flatten, start_dim=2)),  # (1, C, 1, 1) to (1, C, 1)
        ),
        lacks=frozenset({"bias"}),
        drops=r"\bconv_attn\.bias$",  # the softmax cancels it
        implied=(
            (r"\bmlp_add\.", {"eps": 1e-6}),  # of LayerNorm2d
            (r"\bmlp_scale\.", {"eps": 1e-6, "fusion": "scale"}),
            (r"\bmlp\.fc1\.", {"excite": "mlp"}),
            (r"\bgather\.conv1\.", {"gather": "conv"}),
            *((rf"\bgather\.conv{n}\.weight .* 3, 3\)$", {"extent": 2**n}) for n in range(1, 8)),
        ),
        refused=(
            (r"\bgather\.conv1\.weight (?!.* 3, 3\)$)", "the global convolution of ge slides over padding"),
            (r"\bspatial\.conv\.conv\.weight \(1, 1,", "lcbam adds its pools"),
            (
                r"\bse\.(conv2|conv_[hw]|fc_[hw]|norm_[hw]|bn1?)\.",
                "here are its se, ese, eca, ge, gc, gca and cbam, as they are by default",
            ),
        ),
        assumed="timm's defaults: means (in cbam also maxima) as pools, ReLU, sigmoid (hard in ese), zero "
        "padding (not ceca), ge over the whole map or with strided convolutions, no attention without "
        "parameters, no anti-aliasing (not resnetblur), no dilation",
    ),
    "cbam_lightning": Layout(
        "cbam_lightning",
        r"(^|\.)attention\.|(^|\.)channel\.mlp\.0\.",
        assumed="the defaults of options that leave no trace, such as gate",
    ),
    # plain networks of timm as well: their names are the same
    "torchvision": Layout(
        "torchvision or timm, without attention",
        r"^layer1\.0\.conv1\.weight$",
        assumed="ReLU, no attention without parameters, no anti-aliasing (not resnetblur), no dilation",
    ),
}
