"""What the benchmarks compare with: the authors' formulation of an attention module, and timm's.

Both are made from a module of this package with its default options, and compute the same function: the one
with the parameters of that module, timm's with its own.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cbam_lightning.attention.bam import BAM
from cbam_lightning.attention.cbam import CBAM, ChannelAttention, SpatialAttention
from cbam_lightning.attention.eca import ECA
from cbam_lightning.attention.squeeze_excite import SqueezeExcite

_WINDOW_POOLS: dict[str, Callable[..., Tensor]] = {"avg": F.avg_pool2d, "max": F.max_pool2d}


def baselines(module: nn.Module) -> dict[str, nn.Module]:
    """Return the other forms that there are of an attention module on (N, C, H, W): ``authors``, ``timm``.

    Args:
        module: Made with its default options, but for ``reduction``, ``kernel_size`` and ``dilation``.
    """
    found: dict[str, nn.Module] = {}
    if isinstance(module, (BAM, CBAM, SqueezeExcite)):
        found["authors"] = _authors_form(module)
    if isinstance(module, (CBAM, ECA, SqueezeExcite)) and importlib.util.find_spec("timm"):
        found["timm"] = _timm_form(module)
    return {name: form.train(module.training) for name, form in found.items()}


class AuthorsChannelGate(nn.Module):
    """CBAM's channel gate in the operations of its authors, with the parameters of ``ours``.

    Source: ``ChannelGate`` of https://github.com/Jongchan/attention-module/blob/master/MODELS/cbam.py: a pool
    is a window as large as the map, and the gate is expanded to (N, C, H, W).
    """

    def __init__(self, ours: ChannelAttention) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Flatten(), *ours.mlp)
        self.pools = [_WINDOW_POOLS[pool] for pool in ours.pools]

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` times its gate: (N, C, H, W) to the same."""
        window = (x.size(2), x.size(3))
        logits = [self.mlp(pool(x, window, stride=window)) for pool in self.pools]  # each (N, C)
        return x * torch.sigmoid(reduce(torch.add, logits)).unsqueeze(2).unsqueeze(3).expand_as(x)


class AuthorsSpatialGate(nn.Module):
    """CBAM's spatial gate in the operations of its authors, with the parameters of ``ours``.

    Source: ``SpatialGate`` of the same file: the maximum comes with its indices, and the two maps are joined.
    """

    def __init__(self, ours: SpatialAttention) -> None:
        super().__init__()
        self.conv = ours.conv
        self.bn = ours.bn

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` times its gate: (N, C, H, W) to the same."""
        pooled = torch.cat((torch.max(x, 1)[0].unsqueeze(1), torch.mean(x, 1).unsqueeze(1)), dim=1)
        return x * torch.sigmoid(self.bn(self.conv(pooled)))


class AuthorsBAM(nn.Module):
    """BAM in the operations of its authors, with the parameters of ``ours``.

    Source: https://github.com/Jongchan/attention-module/blob/master/MODELS/bam.py: both branches are expanded
    to (N, C, H, W) before they are multiplied.
    """

    def __init__(self, ours: BAM) -> None:
        super().__init__()
        self.channel = nn.Sequential(nn.Flatten(), *ours.channel)
        self.spatial = ours.spatial

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` times its gate: (N, C, H, W) to the same."""
        window = (x.size(2), x.size(3))
        channel = self.channel(F.avg_pool2d(x, window, stride=window)).unsqueeze(2).unsqueeze(3)
        return (1 + torch.sigmoid(channel.expand_as(x) * self.spatial(x).expand_as(x))) * x


def _authors_form(ours: BAM | CBAM | SqueezeExcite) -> nn.Module:
    if isinstance(ours, BAM):
        return AuthorsBAM(ours)
    if isinstance(ours, SqueezeExcite):
        return AuthorsChannelGate(ours)
    return nn.Sequential(AuthorsChannelGate(ours.channel), AuthorsSpatialGate(ours.spatial))


def _timm_form(ours: CBAM | ECA | SqueezeExcite) -> nn.Module:
    get_attn = importlib.import_module("timm.layers").get_attn
    weights = dict(ours.named_parameters())
    if isinstance(ours, ECA):
        form = get_attn("eca")(kernel_size=weights["conv.weight"].shape[-1])
    elif isinstance(ours, SqueezeExcite):
        hidden, channels = weights["mlp.0.weight"].shape
        form = get_attn("se")(channels, rd_channels=hidden)
    else:
        hidden, channels = weights["channel.mlp.0.weight"].shape
        side = weights["spatial.conv.weight"].shape[-1]
        form = get_attn("cbam")(channels, rd_channels=hidden, spatial_kernel_size=side, mlp_bias=True)
    moved: nn.Module = form.to(next(iter(weights.values())))
    return moved
