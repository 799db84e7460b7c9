"""Callbacks: exact resume, record and throughput of a run, EMA, gradual unfreezing, pictures, predictions."""

from cbam_lightning.callbacks.attention_pictures import AttentionPictures
from cbam_lightning.callbacks.ema import EMA
from cbam_lightning.callbacks.gradual_unfreezing import GradualUnfreezing
from cbam_lightning.callbacks.throughput import Throughput

__all__ = ["EMA", "AttentionPictures", "GradualUnfreezing", "Throughput"]
