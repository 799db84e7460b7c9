"""What ``torch.optim`` lacks: parameter groups and learning-rate schedules."""

from cbam_lightning.optim.schedules import Constant, MultiStep, Schedule, TorchSchedule, WarmupCosine

__all__ = ["Constant", "MultiStep", "Schedule", "TorchSchedule", "WarmupCosine"]
