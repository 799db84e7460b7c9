"""Faster R-CNN (Ren, He, Girshick and Sun, NeurIPS 2015) on any ResNet of this package for large images.

Paper: https://arxiv.org/abs/1506.01497. Proposals, sampling and losses are torchvision's
(https://github.com/pytorch/vision/blob/main/torchvision/models/detection/faster_rcnn.py). The attention is in
the backbone's blocks, as in CBAM's paper on COCO (https://arxiv.org/abs/1807.06521).

C4 is the detector of that paper: one map of stride 16, and the last stage on every region. Its numbers are
those of Chen and Gupta's implementation, which the paper names (https://arxiv.org/abs/1702.02138,
https://github.com/endernewton/tf-faster-rcnn). Two things differ: torchvision adds the true boxes to the
proposals in training, and has the stride of a bottleneck in the 3x3 convolution (``stride_in``). FPN is
torchvision's detector of today.

The paper prints no number of parameters for COCO. With 81 outputs, C4 has 48,079,889 on ResNet-101 and
52,860,901 with CBAM. All parameters count, weights and biases of plain BatchNorms included.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign

from cbam_lightning.models.detection.detector_network import DetectorNetwork, Specification, numbers_of
from cbam_lightning.models.detection.precision import Anchors, BoxPredictor, ProposalHead
from cbam_lightning.models.detection.resnet_maps import LastMap, Pyramid, stage_names, take_last_stage
from cbam_lightning.models.resnet import ResNet

NUMBERS = numbers_of(FasterRCNN)

_RATIOS = (0.5, 1.0, 2.0)
_REGION = 7  # positions in each direction


class FasterRCNNNetwork(DetectorNetwork, FasterRCNN):  # type: ignore[misc]
    """torchvision's Faster R-CNN.

    Args:
        backbone: Images to a map or a dictionary of maps, of ``out_channels`` each.
        stages: As in ``DetectorNetwork``.
        spec: What every detector has.
        parts: The modules and numbers that torchvision's class takes.
    """

    def __init__(
        self, backbone: nn.Module, stages: list[list[str]], spec: Specification, **parts: Any
    ) -> None:
        super().__init__(backbone, image_mean=list(spec.mean), image_std=list(spec.std), **parts)
        self.in_channels = spec.in_channels
        self.stages = stages


class StageHead(nn.Module):
    """The last stage of the backbone on every region, and the mean over positions.

    Args:
        stage: With stride 1.
    """

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, x: Tensor) -> Tensor:
        """Return (R, num_features) of R regions (R, C, 7, 7)."""
        features: Tensor = self.stage(x)
        return features.mean((2, 3))


def faster_rcnn_c4(
    network: ResNet,
    spec: Specification,
    *,
    rpn_channels: int = 512,
    min_size: int = 600,
    max_size: int = 1000,
    rpn_pre_nms_top_n_train: int = 12000,
    rpn_pre_nms_top_n_test: int = 6000,
    rpn_post_nms_top_n_train: int = 2000,
    rpn_post_nms_top_n_test: int = 300,
    box_batch_size_per_image: int = 256,
    box_score_thresh: float = 0.0,
    box_nms_thresh: float = 0.3,
    **numbers: float,
) -> FasterRCNNNetwork:
    """Build Faster R-CNN on a network's last map but one.

    Names and meaning of the numbers are torchvision's, the values Chen and Gupta's; those that are not named
    here are the same in both.

    Args:
        network: Without a classifier; it loses its last stage.
        spec: What every detector has.
        rpn_channels: Of the proposal head's 3x3 convolution.
        min_size: What the shorter side of an image is resized to, in pixels.
        max_size: What the longer side is at most.
        rpn_pre_nms_top_n_train: Proposals before suppression, in training.
        rpn_pre_nms_top_n_test: The same in evaluation.
        rpn_post_nms_top_n_train: Proposals after suppression, in training.
        rpn_post_nms_top_n_test: The same in evaluation.
        box_batch_size_per_image: Regions of an image that are trained on.
        box_score_thresh: Scores below this are no detections.
        box_nms_thresh: Overlap from which the detection with the lower score is suppressed.
        numbers: Others of ``NUMBERS``.
    """
    stages = stage_names(network)
    stages[-1] = ["roi_heads.box_head.stage"]
    head = StageHead(take_last_stage(network))
    backbone = LastMap(network)
    anchors = Anchors(((64, 128, 256, 512),), (_RATIOS,))
    return FasterRCNNNetwork(
        backbone,
        stages,
        spec,
        rpn_anchor_generator=anchors,
        rpn_head=ProposalHead(backbone.out_channels, anchors.num_anchors_per_location()[0], rpn_channels),
        box_roi_pool=MultiScaleRoIAlign(["0"], output_size=_REGION, sampling_ratio=2),
        box_head=head,
        box_predictor=BoxPredictor(network.num_features, spec.num_classes),
        min_size=min_size,
        max_size=max_size,
        rpn_pre_nms_top_n_train=rpn_pre_nms_top_n_train,
        rpn_pre_nms_top_n_test=rpn_pre_nms_top_n_test,
        rpn_post_nms_top_n_train=rpn_post_nms_top_n_train,
        rpn_post_nms_top_n_test=rpn_post_nms_top_n_test,
        box_batch_size_per_image=box_batch_size_per_image,
        box_score_thresh=box_score_thresh,
        box_nms_thresh=box_nms_thresh,
        **numbers,
    )


def faster_rcnn_fpn(
    network: ResNet,
    spec: Specification,
    *,
    pyramid_channels: int = 256,
    representation_size: int = 1024,
    **numbers: float,
) -> FasterRCNNNetwork:
    """Build Faster R-CNN on a feature pyramid, with the numbers of torchvision.

    Args:
        network: Without a classifier.
        spec: What every detector has.
        pyramid_channels: Of every map of the pyramid.
        representation_size: Units of the two linear layers that a region goes through.
        numbers: Those of ``NUMBERS`` that are not torchvision's.
    """
    backbone = Pyramid(network, pyramid_channels)
    anchors = Anchors(((32,), (64,), (128,), (256,), (512,)), (_RATIOS,) * 5)
    per_position = anchors.num_anchors_per_location()[0]
    return FasterRCNNNetwork(
        backbone,
        stage_names(network),
        spec,
        rpn_anchor_generator=anchors,
        rpn_head=ProposalHead(backbone.out_channels, per_position, backbone.out_channels),
        box_head=TwoMLPHead(backbone.out_channels * _REGION**2, representation_size),
        box_predictor=BoxPredictor(representation_size, spec.num_classes),
        **numbers,
    )
