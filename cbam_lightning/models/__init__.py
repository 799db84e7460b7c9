"""Networks by name, as plain ``nn.Module`` classes. Listing them does not import torch."""

from cbam_lightning.models.factory import BuiltNetwork, build, build_network, create_model
from cbam_lightning.models.registry import describe_models, list_models, register_model

__all__ = [
    "BuiltNetwork",
    "build",
    "build_network",
    "create_model",
    "describe_models",
    "list_models",
    "register_model",
]
