"""Networks: plain ``nn.Module`` classes, by name. Listing them does not import torch."""

from cbam_lightning.models.factory import build, create_model, resolve_names
from cbam_lightning.models.registry import describe_models, list_models

__all__ = ["build", "create_model", "describe_models", "list_models", "resolve_names"]
