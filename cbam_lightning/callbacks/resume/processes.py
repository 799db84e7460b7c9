"""Communication between the processes of a run; a single process waits for nothing, not even its GPU."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import torch
from pytorch_lightning import Trainer
from torch import Tensor, distributed

from cbam_lightning.metrics.reading import Reading

# Steps after which an alarm is heard: a device has a whole step left to do while its process waits for it.
STEPS_BEHIND = 1


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
    distributed.all_gather_object(gathered, value)
    return gathered


class Alarm:
    """An alarm that any process raises, and that all of them hear at the same step, without waiting for it.

    At each step every process sends a number, and they are added up in the background. A sum that is not
    finite is the alarm: a bad loss raises it by itself, without being read. The sum is looked at one step
    later, by then it has long arrived; that of a single process, as soon as it is there.
    """

    def __init__(self) -> None:
        self._sent: deque[Reading | _Sum] = deque()
        self._stream: Any = None

    def send(self, trainer: Trainer, number: Tensor) -> None:
        """Send the number of this step; all processes have to call this equally often.

        Args:
            trainer: The trainer.
            number: A floating-point tensor with one element, which is changed.
        """
        number = number.to(trainer.strategy.root_device, non_blocking=True)
        self._sent.append(Reading(number) if trainer.world_size == 1 else self._added_up(number))

    def is_heard(self, trainer: Trainer) -> bool:
        """Return whether a process raised the alarm, in the last step but one or earlier."""
        alone = trainer.world_size == 1
        while self._sent and (len(self._sent) > STEPS_BEHIND or (alone and self._sent[0].is_here)):
            if not math.isfinite(float(self._sent.popleft())):
                return True
        return False

    def settle(self) -> None:
        """Wait for what was sent, and forget it; all processes have to call this at the same step."""
        while self._sent:
            float(self._sent.popleft())

    def _added_up(self, number: Tensor) -> Reading | _Sum:
        work = distributed.all_reduce(number, async_op=True)
        if distributed.get_backend() != "nccl":
            return _Sum(work, number)
        # on a stream of its own: the network's need not wait for the slowest process
        self._stream = self._stream or torch.cuda.Stream()  # type: ignore[no-untyped-call]
        number.record_stream(self._stream)  # its memory is not reused before it is copied there
        with torch.cuda.stream(self._stream):
            work.wait()  # lets the stream wait, not the process
            return Reading(number)


class _Sum:
    """The sum of a number over all processes, which ``float`` waits for."""

    is_here = False

    def __init__(self, work: Any, number: Tensor) -> None:
        self._work, self._number = work, number

    def __float__(self) -> float:
        self._work.wait()
        return float(self._number)
