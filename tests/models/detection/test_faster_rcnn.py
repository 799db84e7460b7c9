"""Faster R-CNN: sizes, anchors, the papers' numbers, and a step of training."""

import pytest
import torch
from torchvision.models.detection.image_list import ImageList

from cbam_lightning.attention import CBAM
from cbam_lightning.errors import UsageError
from cbam_lightning.models import create_model
from tests.models.detection.scenes import (
    LARGE,
    count,
    on_meta,
    randomise,
    scene,
    small_faster_rcnn,
    without_boxes,
)

LOSSES = {"loss_box_reg", "loss_classifier", "loss_objectness", "loss_rpn_box_reg"}


def size(name, **options):
    return count(on_meta(name, **options))


class TestSizes:
    # 81 outputs: 80 classes of COCO and the background. 91: COCO's own ids, which have gaps.
    @pytest.mark.parametrize(
        ("name", "num_classes", "plain", "cbam"),
        [
            ("faster_rcnn_resnet101_c4", 81, 48_079_889, 52_860_901),
            ("faster_rcnn_resnet101_c4", 91, 48_182_339, 52_963_351),
            ("faster_rcnn_resnet50_c4", 81, 29_087_761, 31_620_353),
            ("faster_rcnn_resnet101_fpn", 81, 60_749_284, 65_530_296),
            ("faster_rcnn_resnet50_fpn", 81, 41_757_156, 44_289_748),
            ("faster_rcnn_resnet50_fpn", 91, 41_808_406, 44_340_998),
        ],
    )
    def test_all_parameters(self, name, num_classes, plain, cbam):
        assert size(name, num_classes=num_classes) == plain
        assert size(name, num_classes=num_classes, attention="cbam") == cbam

    def test_with_torchvisions_wide_proposal_head(self):
        assert size("faster_rcnn_resnet101_c4", num_classes=81, rpn_channels=1024) == 52_829_713

    def test_fpn_is_torchvisions_but_for_its_batch_norms(self):
        """Its 41,755,286 count no BatchNorm of the stem and of layer1 to layer4: they are frozen buffers."""
        with torch.device("meta"):
            backbone = create_model("resnet50", num_classes=0)
        affine = sum(p.numel() for name, p in backbone.named_parameters() if p.dim() == 1)
        assert size("faster_rcnn_resnet50_fpn", num_classes=91) - affine == 41_755_286

    @pytest.mark.parametrize("name", ["faster_rcnn_resnet18_c4", "faster_rcnn_resnet34_fpn"])
    def test_small_ones_can_be_built(self, name):
        assert size(name, attention="cbam") > size(name)


class TestAnchors:
    def test_of_c4_are_the_literal_ones(self):
        """12 at a position: sides of 64 to 512 px, areas kept by ratios of 1:2, 1:1 and 2:1, rounded."""
        detector = small_faster_rcnn()
        (anchors,) = detector.rpn.anchor_generator(
            ImageList(torch.empty(1, 3, 64, 96), [(64, 96)]), [torch.empty(1, 8, 4, 6)]
        )
        assert anchors.shape == (12 * 24, 4)
        expected = []
        for ratio in (0.5, 1, 2):
            for side in (64, 128, 256, 512):
                width, height = side / ratio**0.5, side * ratio**0.5
                expected.append([round(v) for v in (-width / 2, -height / 2, width / 2, height / 2)])
        position = 2 * 6 + 3  # row 2, column 3, stride 16
        found = anchors[12 * position : 12 * (position + 1)] - torch.tensor([48, 32, 48, 32])
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32))

    def test_of_fpn_have_one_size_a_map(self):
        generator = small_faster_rcnn("fpn").rpn.anchor_generator
        assert generator.sizes == ((32,), (64,), (128,), (256,), (512,))
        assert generator.num_anchors_per_location() == [3] * 5


class TestRecipe:
    def test_of_c4(self):
        detector = on_meta("faster_rcnn_resnet18_c4")
        rpn, heads = detector.rpn, detector.roi_heads
        assert (detector.transform.min_size, detector.transform.max_size) == ((600,), 1000)
        assert rpn._pre_nms_top_n == {"training": 12000, "testing": 6000}
        assert rpn._post_nms_top_n == {"training": 2000, "testing": 300}
        assert (rpn.nms_thresh, rpn.fg_bg_sampler.batch_size_per_image) == (0.7, 256)
        assert (rpn.proposal_matcher.high_threshold, rpn.proposal_matcher.low_threshold) == (0.7, 0.3)
        assert (heads.fg_bg_sampler.batch_size_per_image, heads.fg_bg_sampler.positive_fraction) == (
            256,
            0.25,
        )
        assert heads.proposal_matcher.high_threshold == 0.5
        assert (heads.score_thresh, heads.nms_thresh, heads.detections_per_img) == (0.0, 0.3, 100)

    def test_of_fpn_is_torchvisions(self):
        detector = on_meta("faster_rcnn_resnet18_fpn")
        assert (detector.transform.min_size, detector.transform.max_size) == ((800,), 1333)
        assert (detector.roi_heads.score_thresh, detector.roi_heads.nms_thresh) == (0.05, 0.5)
        assert detector.roi_heads.fg_bg_sampler.batch_size_per_image == 512


class TestC4:
    @pytest.mark.parametrize(
        ("resnet", "options"),
        [("resnet18", LARGE), ("resnet50", LARGE), ("resnet50", {**LARGE, "stride_in": "1x1"})],
    )
    def test_trunk_and_head_are_the_network_with_the_last_stage_at_stride_1(self, resnet, options):
        torch.manual_seed(0)
        network = randomise(create_model(resnet, attention="cbam", num_classes=0, **options)).eval()
        detector = small_faster_rcnn(resnet=resnet, attention="cbam", backbone_options=options).eval()
        state = network.state_dict()
        last = {k.removeprefix("layer4."): v for k, v in state.items() if k.startswith("layer4.")}
        detector.roi_heads.box_head.stage.load_state_dict(last)
        detector.backbone.body.load_state_dict({k: v for k, v in state.items() if "layer4" not in k})
        x = torch.randn(2, 3, 64, 64)
        with torch.no_grad():
            maps = network.forward_stages(x)
            assert torch.equal(detector.backbone(x), maps["layer3"])
            assert detector.backbone.out_channels == maps["layer3"].shape[1]
            for conv in network.layer4[0].modules():
                if isinstance(conv, torch.nn.Conv2d):
                    conv.stride = (1, 1)
            regions = torch.randn(3, detector.backbone.out_channels, 7, 7)
            expected = network.layer4(regions)
            assert expected.shape[2:] == (7, 7)
            torch.testing.assert_close(detector.roi_heads.box_head(regions), expected.sum((2, 3)) / 49)

    def test_attention_after_stages_stays_in_the_trunk(self):
        detector = small_faster_rcnn(attention="bam")
        assert set(detector.backbone.body.attention) == {"layer1", "layer2", "layer3"}


def test_fpn_sees_every_stage():
    detector = small_faster_rcnn("fpn", pyramid_channels=256).eval()
    maps = detector.backbone(torch.rand(1, 3, 64, 64))
    sizes = [(name, m.shape[1], m.shape[2]) for name, m in maps.items()]
    assert sizes == [("0", 256, 16), ("1", 256, 8), ("2", 256, 4), ("3", 256, 2), ("pool", 256, 1)]
    stages = detector.backbone.body.forward_stages(torch.rand(1, 3, 64, 64))
    assert list(stages) == ["layer1", "layer2", "layer3", "layer4"]


@pytest.mark.parametrize("kind", ["c4", "fpn"])
@pytest.mark.parametrize("attention", ["none", "cbam"])
def test_a_step_of_training_reaches_the_attention(kind, attention):
    torch.manual_seed(0)
    options = {"attention_options": {"reduction": 2}} if attention == "cbam" else {}
    detector = randomise(small_faster_rcnn(kind, attention=attention, **options)).train()
    assert sum(isinstance(m, CBAM) for m in detector.modules()) == (4 if attention == "cbam" else 0)
    losses = detector(*scene())
    assert losses.keys() == LOSSES
    sum(losses.values()).backward()
    for name, parameter in detector.named_parameters():
        assert parameter.grad.isfinite().all(), name
        if "attention" in name:
            assert parameter.grad.any(), name


@pytest.mark.parametrize("kind", ["c4", "fpn"])
def test_detections_are_boxes_inside_images_of_any_size(kind):
    torch.manual_seed(0)
    detector = randomise(small_faster_rcnn(kind, attention="cbam", box_score_thresh=0.0)).eval()
    with torch.no_grad():
        found = detector([torch.rand(3, 40, 80), torch.rand(3, 64, 64)])
    for one, (height, width) in zip(found, ((40, 80), (64, 64)), strict=True):
        assert 0 < len(one["scores"]) <= 100
        assert one["boxes"].shape == (len(one["scores"]), 4)
        assert (one["scores"].diff() <= 0).all()
        assert set(one["labels"].tolist()) <= {1, 2, 3}
        assert (one["boxes"] >= 0).all()
        assert (one["boxes"][:, 2::2] <= width + 1e-3).all()
        assert (one["boxes"][:, 1::2] <= height + 1e-3).all()


@pytest.mark.parametrize("kind", ["c4", "fpn"])
def test_images_without_boxes_have_a_finite_loss(kind):
    detector = small_faster_rcnn(kind).train()
    images, targets = scene()
    losses = detector(images, without_boxes(targets))
    assert all(loss.isfinite() for loss in losses.values())
    assert losses["loss_box_reg"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"kind": "fpn", "backbone_options": {"depths": (1, 1), "widths": (8, 8)}},
            "2 stages, but a feature",
        ),
        ({"kind": "c4", "backbone_options": {"depths": (1,), "widths": (8,)}}, "has 1 stage; C4 needs"),
        ({"kind": "fpn", "rpn_channels": 256}, "unknown detector option 'rpn_channels'"),
        ({"rpn_channels": 0}, "rpn_channels is 0; give a whole number"),
        ({"box_nms_thresh": "high"}, "box_nms_thresh is 'high'; give a number from 0 to 1"),
        ({"backbone_attention": "cbam"}, "the attention of faster_rcnn_resnet18_c4 is in its backbone"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(UsageError, match=message):
        small_faster_rcnn(**options)
