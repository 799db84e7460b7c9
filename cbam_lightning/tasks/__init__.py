"""LightningModules and what they train with. No network is defined here."""

from cbam_lightning.tasks.attention_pictures import AttentionPictures
from cbam_lightning.tasks.classifier import Classifier
from cbam_lightning.tasks.detector import Detector
from cbam_lightning.tasks.ema import EMA
from cbam_lightning.tasks.finetuning import GradualUnfreezing
from cbam_lightning.tasks.schedules import Constant, MultiStep, Schedule, TorchSchedule, WarmupCosine

__all__ = [
    "EMA",
    "AttentionPictures",
    "Classifier",
    "Constant",
    "Detector",
    "GradualUnfreezing",
    "MultiStep",
    "Schedule",
    "TorchSchedule",
    "WarmupCosine",
]
