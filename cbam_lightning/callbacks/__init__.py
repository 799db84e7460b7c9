"""Callbacks for any Trainer: exact resume, the record of a run, EMA, unfreezing, pictures, predictions."""

from cbam_lightning.callbacks.attention_pictures import AttentionPictures
from cbam_lightning.callbacks.ema import EMA
from cbam_lightning.callbacks.gradual_unfreezing import GradualUnfreezing

__all__ = ["EMA", "AttentionPictures", "GradualUnfreezing"]
