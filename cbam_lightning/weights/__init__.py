"""What a shared checkpoint is: its file, its header, and how its values enter a network.

Nothing here knows a network or Lightning: state dicts, names and files only. ``models`` builds on it.
"""

from cbam_lightning.weights.checkpoint import (
    Checkpoint,
    load_checkpoint,
    read_training_state,
    save_checkpoint,
)
from cbam_lightning.weights.files import atomic_write
from cbam_lightning.weights.header import Header
from cbam_lightning.weights.loading import LoadReport, load_into

__all__ = [
    "Checkpoint",
    "Header",
    "LoadReport",
    "atomic_write",
    "load_checkpoint",
    "load_into",
    "read_training_state",
    "save_checkpoint",
]
