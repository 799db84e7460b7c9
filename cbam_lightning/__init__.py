"""A PyTorch Lightning research template for CBAM and other convolutional attention.

The public names are imported on first use, so that ``cbam-lightning --help`` and ``cbam-lightning models``
answer without importing torch or Lightning.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cbam_lightning.attention import CBAM, create_attention, list_attention, register_attention
    from cbam_lightning.models import create_model, list_models, register_model
    from cbam_lightning.models.insertion import insert_attention
    from cbam_lightning.tasks import Classifier, Detector

__version__ = "0.1.0"

_ROOMS = {
    "attention": ("CBAM", "create_attention", "list_attention", "register_attention"),
    "models": ("create_model", "list_models", "register_model"),
    "models.insertion": ("insert_attention",),
    "tasks": ("Classifier", "Detector"),
}

__all__ = [
    "CBAM",
    "Classifier",
    "Detector",
    "create_attention",
    "create_model",
    "insert_attention",
    "list_attention",
    "list_models",
    "register_attention",
    "register_model",
]


def __getattr__(name: str) -> Any:
    for room, names in _ROOMS.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{room}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
