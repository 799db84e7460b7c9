"""CBAM and other convolutional attention, as a PyTorch Lightning research template.

The names below are imported when they are first used, so that ``cbam-lightning --help`` and
``cbam-lightning models`` answer without loading torch or Lightning.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cbam_lightning.attention import CBAM, create_attention, list_attention, register_attention
    from cbam_lightning.models import create_model, insert_attention, list_models, register_model
    from cbam_lightning.tasks import Classifier, Detector

__version__ = "0.1.0"

_HOMES = {
    "CBAM": "attention",
    "Classifier": "tasks",
    "Detector": "tasks",
    "create_attention": "attention",
    "create_model": "models",
    "insert_attention": "models",
    "list_attention": "attention",
    "list_models": "models",
    "register_attention": "attention",
    "register_model": "models",
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
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
