"""Attention modules: plain ``nn.Module`` classes from (N, C, *positions) to (N, C, *positions)."""

from cbam_lightning.attention import fused
from cbam_lightning.attention.bam import BAM
from cbam_lightning.attention.cbam import CBAM, ChannelAttention, SpatialAttention
from cbam_lightning.attention.coordinate import CoordinateAttention
from cbam_lightning.attention.eca import ECA
from cbam_lightning.attention.effective_se import EffectiveSE
from cbam_lightning.attention.gather_excite import GatherExcite
from cbam_lightning.attention.global_context import GlobalContext
from cbam_lightning.attention.mhsa import MHSA
from cbam_lightning.attention.registry import create_attention, list_attention, register_attention
from cbam_lightning.attention.sagan import SAGAN
from cbam_lightning.attention.sca import SCA
from cbam_lightning.attention.scse import SCSE
from cbam_lightning.attention.simam import SimAM
from cbam_lightning.attention.squeeze_excite import SqueezeExcite
from cbam_lightning.attention.style_recalibration import SRM
from cbam_lightning.attention.triplet import TripletAttention

__all__ = [
    "BAM",
    "CBAM",
    "ECA",
    "MHSA",
    "SAGAN",
    "SCA",
    "SCSE",
    "SRM",
    "ChannelAttention",
    "CoordinateAttention",
    "EffectiveSE",
    "GatherExcite",
    "GlobalContext",
    "SimAM",
    "SpatialAttention",
    "SqueezeExcite",
    "TripletAttention",
    "create_attention",
    "fused",
    "list_attention",
    "register_attention",
]
