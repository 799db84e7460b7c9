"""Parameter groups and learning-rate schedules, which torch.optim lacks."""

from cbam_lightning.optim.schedules import Constant, MultiStep, Schedule, TorchSchedule, WarmupCosine

__all__ = ["Constant", "MultiStep", "Schedule", "TorchSchedule", "WarmupCosine"]
