"""Shared checkpoints: their files and headers, the registry, and loading into a network.

This room knows state dicts, names and files, but no network and no Lightning; ``models`` builds on it.
"""

from cbam_lightning.weights.checkpoint import (
    Checkpoint,
    load_checkpoint,
    read_state_dict,
    read_training_state,
    save_checkpoint,
)
from cbam_lightning.weights.checkpoint_registry import checkpoint_path, list_weights
from cbam_lightning.weights.header import Header
from cbam_lightning.weights.loading import LoadReport, load_into
from cbam_lightning.weights.translate import from_authors, identify, implied_options, translate

__all__ = [
    "Checkpoint",
    "Header",
    "LoadReport",
    "checkpoint_path",
    "from_authors",
    "identify",
    "implied_options",
    "list_weights",
    "load_checkpoint",
    "load_into",
    "read_state_dict",
    "read_training_state",
    "save_checkpoint",
    "translate",
]
