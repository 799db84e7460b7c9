"""Attention modules: plain ``nn.Module`` classes from (N, C, H, W) to (N, C, H, W)."""

from cbam_lightning.attention.cbam import CBAM, ChannelAttention, SpatialAttention
from cbam_lightning.attention.registry import create_attention, list_attention
from cbam_lightning.attention.squeeze_excite import SqueezeExcite

__all__ = [
    "CBAM",
    "ChannelAttention",
    "SpatialAttention",
    "SqueezeExcite",
    "create_attention",
    "list_attention",
]
