"""Attention modules: plain ``nn.Module`` classes from (N, C, *positions) to (N, C, *positions)."""

from cbam_lightning.attention import fused
from cbam_lightning.attention.bam import BAM
from cbam_lightning.attention.cbam import CBAM, ChannelAttention, SpatialAttention
from cbam_lightning.attention.coordinate import CoordinateAttention
from cbam_lightning.attention.eca import ECA
from cbam_lightning.attention.registry import create_attention, list_attention, register_attention
from cbam_lightning.attention.sagan import SAGAN
from cbam_lightning.attention.scse import SCSE
from cbam_lightning.attention.simam import SimAM
from cbam_lightning.attention.squeeze_excite import SqueezeExcite
from cbam_lightning.attention.triplet import TripletAttention

__all__ = [
    "BAM",
    "CBAM",
    "ECA",
    "SAGAN",
    "SCSE",
    "ChannelAttention",
    "CoordinateAttention",
    "SimAM",
    "SpatialAttention",
    "SqueezeExcite",
    "TripletAttention",
    "create_attention",
    "fused",
    "list_attention",
    "register_attention",
]
