"""How checkpoints are written, completely or not at all, and how often."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from cbam_lightning.errors import UsageError
from cbam_lightning.files import atomic_write
from cbam_lightning.weights import read_training_state


@dataclass
class SaveOptions:
    """How often to save the checkpoint for ``resume``, besides after every epoch and at the end.

    Args:
        every_minutes: Minutes of training between two checkpoints within an epoch; null for none.
        every_steps: Optimiser steps between two; null for none. With both, whichever comes first.
        on_error: If a checkpoint cannot be written: continue with the previous one, or stop.
    """

    every_minutes: float | None = 10.0
    every_steps: int | None = None
    on_error: Literal["warn", "stop"] = "warn"

    def __post_init__(self) -> None:
        for name in ("every_minutes", "every_steps"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"--save.{name} is {value}; allowed: more than 0, or null.")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint next to the one it replaces, then rename it; a failed write does not end the run.

    Lightning writes through the system's folder for temporary files. If that is on another file system, it
    copies over the old file, and a full disk would damage the last good checkpoint.

    Attributes:
        failure: Why the last write failed, if it did.
    """

    def __init__(self) -> None:
        super().__init__()
        self.failure: OSError | None = None
        self._unwritten: set[str] = set()
        self._read: dict[Path, dict[str, Any]] = {}

    def read(self, path: str | Path) -> dict[str, Any]:
        """Return the content of a checkpoint, and keep it for the trainer, which then need not read it again.

        Raises:
            UsageError: The file is not a checkpoint, is damaged, or holds more than plain values.
        """
        key = Path(path).resolve()
        if key not in self._read:
            self._read[key] = read_training_state(path)
        return self._read[key]

    def kept(self, path: str | Path) -> dict[str, Any] | None:
        """Return the content of a checkpoint if it was read, and is kept for the trainer."""
        return self._read.get(Path(path).resolve())

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the content of a checkpoint for the trainer, which changes it."""
        kept = self._read.pop(Path(path).resolve(), None)
        return super().load_checkpoint(path, *args, **kwargs) if kept is None else kept

    def is_current(self, path: Any) -> bool:
        """Return whether the last write of a checkpoint succeeded."""
        return str(path) not in self._unwritten

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Save the checkpoint; if that fails, the old file stays, and ``failure`` has the reason."""
        try:
            self._save(checkpoint, path, storage_options)
            self.failure = None
            self._unwritten.discard(str(path))
        except OSError as error:
            self.failure = error
            self._unwritten.add(str(path))
            reason = error.strerror or str(error)
            warnings.warn(f"{path} could not be written ({reason}); the previous one stays.", stacklevel=2)

    def _save(self, checkpoint: dict[str, Any], path: Any, storage_options: Any) -> None:
        if "://" in str(path):  # an object store, whose writes are atomic
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        with atomic_write(path) as file:
            file.write(buffer.getbuffer())

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint, unless the last write failed."""
        if self.failure is None:
            super().remove_checkpoint(path)
