"""Other implementations to compare with: that of an attention module's authors, and timm's.

Both are made from a module of this package with its default options and compute the same function: the
authors' with the parameters of that module, timm's with its own.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from functools import reduce
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cbam_lightning.attention.bam import BAM
from cbam_lightning.attention.cbam import CBAM, ChannelAttention, SpatialAttention
from cbam_lightning.attention.coordinate import CoordinateAttention
from cbam_lightning.attention.eca import ECA
from cbam_lightning.attention.effective_se import EffectiveSE
from cbam_lightning.attention.gather_excite import GatherExcite
from cbam_lightning.attention.global_context import GlobalContext
from cbam_lightning.attention.squeeze_excite import SqueezeExcite

_WINDOW_POOLS: dict[str, Callable[..., Tensor]] = {"avg": F.avg_pool2d, "max": F.max_pool2d}


def baselines(module: nn.Module) -> dict[str, nn.Module]:
    """Return the other implementations of an attention module on (N, C, H, W): ``authors`` and ``timm``.

    Args:
        module: Made with its default options, except ``reduction``, ``kernel_size`` and ``dilation``.
    """
    found: dict[str, nn.Module] = {}
    if isinstance(module, (BAM, CBAM, SqueezeExcite)):
        found["authors"] = _authors_form(module)
    if (timm := _timm_form(module)) is not None:
        found["timm"] = timm
    return {name: form.train(module.training) for name, form in found.items()}


class AuthorsChannelGate(nn.Module):
    """CBAM's channel gate with its authors' operations and the parameters of ``module``.

    Source: ``ChannelGate`` of https://github.com/Jongchan/attention-module/blob/master/MODELS/cbam.py: a pool
    has a window as large as the map, and the gate is expanded to (N, C, H, W).
    """

    def __init__(self, module: ChannelAttention) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Flatten(), *module.mlp)
        self.pools = [_WINDOW_POOLS[pool] for pool in module.pools]

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` times its gate: (N, C, H, W) to the same."""
        window = (x.size(2), x.size(3))
        logits = [self.mlp(pool(x, window, stride=window)) for pool in self.pools]  # each (N, C)
        return x * torch.sigmoid(reduce(torch.add, logits)).unsqueeze(2).unsqueeze(3).expand_as(x)


class AuthorsSpatialGate(nn.Module):
    """CBAM's spatial gate with its authors' operations and the parameters of ``module``.

    Source: ``SpatialGate`` of the same file: the maximum is computed with its indices, and the two maps are
    concatenated.
    """

    def __init__(self, module: SpatialAttention) -> None:
        super().__init__()
        self.conv, self.bn = module.conv, module.bn

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` times its gate: (N, C, H, W) to the same."""
        pooled = torch.cat((torch.max(x, 1)[0].unsqueeze(1), torch.mean(x, 1).unsqueeze(1)), dim=1)
        return x * torch.sigmoid(self.bn(self.conv(pooled)))


class AuthorsBAM(nn.Module):
    """BAM with its authors' operations and the parameters of ``module``.

    Source: https://github.com/Jongchan/attention-module/blob/master/MODELS/bam.py: both branches are expanded
    to (N, C, H, W) before they are multiplied.
    """

    def __init__(self, module: BAM) -> None:
        super().__init__()
        self.channel = nn.Sequential(nn.Flatten(), *module.channel)
        self.spatial = module.spatial

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` times its gate: (N, C, H, W) to the same."""
        window = (x.size(2), x.size(3))
        channel = self.channel(F.avg_pool2d(x, window, stride=window)).unsqueeze(2).unsqueeze(3)
        return (1 + torch.sigmoid(channel.expand_as(x) * self.spatial(x).expand_as(x))) * x


def _authors_form(module: BAM | CBAM | SqueezeExcite) -> nn.Module:
    if isinstance(module, BAM):
        return AuthorsBAM(module)
    if isinstance(module, SqueezeExcite):
        return AuthorsChannelGate(module)
    return nn.Sequential(AuthorsChannelGate(module.channel), AuthorsSpatialGate(module.spatial))


def _timm_form(module: nn.Module) -> nn.Module | None:
    """Return timm's module of the same options, or ``None`` if timm is not installed or has none."""
    if type(module) not in _TIMM or not importlib.util.find_spec("timm"):
        return None
    name, options = _TIMM[type(module)](module)
    form: nn.Module = importlib.import_module("timm.layers").get_attn(name)(**options)
    if isinstance(module, GlobalContext):
        norm = cast("nn.LayerNorm", form.get_submodule("mlp_add.norm"))
        norm.eps = cast("nn.LayerNorm", module.mlp.norm).eps
    return form.to(next(module.parameters(), torch.empty(0)))


def _hidden_and_channels(layer: nn.Module) -> dict[str, int]:
    hidden, channels = cast("Tensor", layer.weight).shape[:2]
    return {"channels": channels, "rd_channels": hidden}


# Timm's name and its arguments, those of the first layer where they are read off it
_TIMM: dict[type[nn.Module], Callable[[Any], tuple[str, dict[str, Any]]]] = {
    CBAM: lambda m: (
        "cbam",
        {
            **_hidden_and_channels(m.channel.mlp[0]),
            "spatial_kernel_size": m.spatial.conv.kernel_size[0],
            "mlp_bias": True,
        },
    ),
    CoordinateAttention: lambda m: ("coord", {**_hidden_and_channels(m.squeeze), "bias": True}),
    ECA: lambda m: ("eca", {"kernel_size": m.conv.kernel_size[0]}),
    EffectiveSE: lambda m: ("ese", {"channels": m.fc.in_features}),
    GatherExcite: lambda m: ("ge", {"channels": 1, "use_mlp": False}),  # no layer depends on the channels
    GlobalContext: lambda m: ("gca", _hidden_and_channels(m.mlp.fc1)),
    SqueezeExcite: lambda m: ("se", _hidden_and_channels(m.mlp[0])),
}
