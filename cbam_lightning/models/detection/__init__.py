"""Detectors: SSD, StairNet and Faster R-CNN as plain ``nn.Module`` classes, by name.

They are torchvision's own ``SSD`` and ``FasterRCNN`` with attention: a list of images (C, H, W) with values
in [0, 1], and in training targets with ``boxes`` and ``labels``, to losses or detections. Listing them does
not import torch.
"""

from cbam_lightning.models.detection.detector_factory import create_detector
from cbam_lightning.models.detection.detector_registry import describe_detectors, list_detectors

__all__ = ["create_detector", "describe_detectors", "list_detectors"]
