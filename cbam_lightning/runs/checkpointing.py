"""Checkpoints on the disk: whole or absent, and telling where they come from."""

from __future__ import annotations

import io
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from cbam_lightning.weights import atomic_write


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint beside the one it replaces, then rename it.

    Lightning writes through the system's folder for temporary files, so that replacing is a copy over the old
    file wherever that folder is another file system: a full disk would damage the last good checkpoint.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Save the checkpoint under ``path``.

        Raises:
            OSError: The disk is full and the like; what stood there before is unchanged.
        """
        if "://" in str(path):  # an object store, whose writes are atomic
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        with atomic_write(path) as file:
            file.write(buffer.getbuffer())
