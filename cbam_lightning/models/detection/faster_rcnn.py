"""Faster R-CNN (Ren, He, Girshick and Sun, NeurIPS 2015) on our ResNets for large images.

Paper: https://arxiv.org/abs/1506.01497. Proposals, sampling and losses are torchvision's
(https://github.com/pytorch/vision/blob/main/torchvision/models/detection/faster_rcnn.py). The attention is in
the backbone's blocks, as in CBAM's experiments on COCO (https://arxiv.org/abs/1807.06521).

C4 is the detector of that paper: one map of stride 16, and the last stage on every region. Its numbers are
those of Chen and Gupta's implementation, to which the paper refers (https://arxiv.org/abs/1702.02138,
https://github.com/endernewton/tf-faster-rcnn). There are two differences: torchvision adds the ground truth
to the proposals in training, and a bottleneck has its stride in the 3x3 convolution (``stride_in``). FPN is
torchvision's current detector.

The paper gives no number of parameters for COCO. With 81 outputs, C4 has 48,079,889 on ResNet-101 and
52,860,901 with CBAM, counting all parameters, including weights and biases of plain BatchNorms.
"""

from __future__ import annotations

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
# The numbers of C4 that differ from torchvision's, under torchvision's names.
_CHEN_AND_GUPTA = {
    "min_size": 600,  # of the shorter side of an image after resizing, in pixels
    "max_size": 1000,  # of the longer side
    "rpn_pre_nms_top_n_train": 12000,  # proposals before suppression
    "rpn_pre_nms_top_n_test": 6000,
    "rpn_post_nms_top_n_train": 2000,  # proposals after suppression
    "rpn_post_nms_top_n_test": 300,
    "box_batch_size_per_image": 256,  # regions per image in training
    "box_score_thresh": 0.0,
    "box_nms_thresh": 0.3,  # overlap above which the detection with the lower score is suppressed
}


class FasterRCNNNetwork(DetectorNetwork, FasterRCNN):  # type: ignore[misc]
    """torchvision's Faster R-CNN. Its backbone computes a map or a dictionary of maps from images."""


class StageHead(nn.Module):
    """The last stage of the backbone on every region, followed by the mean over positions.

    Args:
        stage: The stage, with stride 1.
    """

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, x: Tensor) -> Tensor:
        """Return features (R, num_features) of R regions (R, C, 7, 7)."""
        features: Tensor = self.stage(x)
        return features.mean((2, 3))


def faster_rcnn_c4(
    network: ResNet, spec: Specification, *, rpn_channels: int = 512, **numbers: float
) -> FasterRCNNNetwork:
    """Build Faster R-CNN on a network's last map but one.

    Args:
        network: A network without a classifier; its last stage is moved to the regions.
        spec: The arguments of every detector.
        rpn_channels: Output channels of the proposal head's 3x3 convolution.
        numbers: Those of ``NUMBERS`` that differ from Chen and Gupta's.
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
        **{**_CHEN_AND_GUPTA, **numbers},
    )


def faster_rcnn_fpn(
    network: ResNet,
    spec: Specification,
    *,
    pyramid_channels: int = 256,
    representation_size: int = 1024,
    **numbers: float,
) -> FasterRCNNNetwork:
    """Build Faster R-CNN on a feature pyramid, with torchvision's numbers.

    Args:
        network: A network without a classifier.
        spec: The arguments of every detector.
        pyramid_channels: Number of channels of every map of the pyramid.
        representation_size: Width of the two linear layers for every region.
        numbers: Those of ``NUMBERS`` that differ from torchvision's.
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
