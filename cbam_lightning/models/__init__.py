"""Networks by name, as plain ``nn.Module`` classes. Listing them does not import torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cbam_lightning.models.factory import BuiltNetwork, build, build_network, create_model
from cbam_lightning.models.registry import describe_models, list_models, register_model

if TYPE_CHECKING:
    from cbam_lightning.models.insertion import insert_attention, plan_insertion
    from cbam_lightning.models.pretrained import open_checkpoint

_HOMES = {"insert_attention": "insertion", "open_checkpoint": "pretrained", "plan_insertion": "insertion"}

__all__ = [
    "BuiltNetwork",
    "build",
    "build_network",
    "create_model",
    "describe_models",
    "insert_attention",
    "list_models",
    "open_checkpoint",
    "plan_insertion",
    "register_model",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
