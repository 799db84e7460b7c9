"""Communication between the processes of a run; a single process waits for nothing, not even its GPU."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning import Trainer


def agree(trainer: Trainer, code: int) -> int:
    """Return the largest of the codes of all processes."""
    if trainer.world_size == 1:
        return code
    wish = torch.tensor(code, device=trainer.strategy.root_device)
    return int(trainer.strategy.reduce(wish, reduce_op="max"))


def gather(trainer: Trainer, value: Any) -> list[Any]:
    """Return the values of all processes, in order of rank."""
    if trainer.world_size == 1:
        return [value]
    gathered: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(gathered, value)
    return gathered
