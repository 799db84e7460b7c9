"""Callbacks: exact resume, the record of a run, EMA, gradual unfreezing, pictures, predictions."""

from cbam_lightning.callbacks.attention_pictures import AttentionPictures
from cbam_lightning.callbacks.ema import EMA
from cbam_lightning.callbacks.gradual_unfreezing import GradualUnfreezing

__all__ = ["EMA", "AttentionPictures", "GradualUnfreezing"]
