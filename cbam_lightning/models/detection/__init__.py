"""Detectors: SSD, StairNet and Faster R-CNN as plain ``nn.Module`` classes, by name.

They are torchvision's ``SSD`` and ``FasterRCNN`` with attention. They take a list of images (C, H, W) with
values in [0, 1] and return detections, or losses in training, when they also take targets with ``boxes`` and
``labels``. Listing them does not import torch.
"""

from cbam_lightning.models.detection.detector_factory import create_detector
from cbam_lightning.models.detection.detector_registry import describe_detectors, list_detectors

__all__ = ["create_detector", "describe_detectors", "list_detectors"]
