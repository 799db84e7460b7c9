"""The cost of a detector: parameters, multiply-accumulates, and a training step that can be timed."""

from __future__ import annotations

import torch
from torch import Tensor

from cbam_lightning.benchmarks.training_step import TrainingStep
from cbam_lightning.models.complexity import Complexity, count_call
from cbam_lightning.models.detection.detector_network import DetectorNetwork


class DetectionStep(TrainingStep):
    """A training step of a detector on fixed images, with one object in the middle of each.

    Args:
        detector: The detector to train.
        images: (N, C, H, W) in [0, 1].
    """

    def __init__(self, detector: DetectorNetwork, images: Tensor) -> None:
        super().__init__(detector, images)
        height, width = images.shape[2:]
        middle = torch.tensor([[width, height, 3 * width, 3 * height]], device=images.device) / 4
        label = torch.ones(1, dtype=torch.int64, device=images.device)
        self.targets = [{"boxes": middle, "labels": label} for _ in images]

    def _loss(self) -> Tensor:
        losses: dict[str, Tensor] = self.network(list(self.images), self.targets)
        return torch.stack(list(losses.values())).sum()


def count_detector(detector: DetectorNetwork, size_px: int, in_channels: int) -> Complexity:
    """Count parameters, and the multiply-accumulates of detecting objects in one grey image.

    For Faster R-CNN these depend on the number of proposals, at most ``rpn_post_nms_top_n_test``.

    Args:
        detector: Is left in evaluation mode.
        size_px: Height and width of the image, which the detector may resize.
        in_channels: Number of channels of the image.
    """
    image = torch.full((in_channels, size_px, size_px), 0.5, device=next(detector.parameters()).device)
    return count_call(detector.eval(), [image])
