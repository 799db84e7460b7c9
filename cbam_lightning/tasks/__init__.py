"""The tasks, LightningModules around plain networks: classification and detection."""

from importlib import import_module
from typing import Any

from cbam_lightning.tasks.classifier import Classifier
from cbam_lightning.tasks.detector import Detector

__all__ = ["Classifier", "Detector"]

# Configurations of runs made before version 0.2 name these as members of this package.
_FORMER_MEMBERS = {
    **dict.fromkeys(("EMA", "AttentionPictures", "GradualUnfreezing"), "callbacks"),
    **dict.fromkeys(("Constant", "MultiStep", "Schedule", "TorchSchedule", "WarmupCosine"), "optim"),
}


def __getattr__(name: str) -> Any:
    if name not in _FORMER_MEMBERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"cbam_lightning.{_FORMER_MEMBERS[name]}"), name)
