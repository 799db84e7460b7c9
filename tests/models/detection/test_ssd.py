"""SSD and StairNet: the recipe's numbers, the attention, and steps of training."""

import math

import pytest
import torch

from cbam_lightning.attention import CBAM, SqueezeExcite, list_attention
from tests.models.detection.scenes import randomise, scene, small_ssd, without_boxes


class TestRecipe:
    def test_numbers(self):
        detector = small_ssd()
        assert (detector.score_thresh, detector.nms_thresh, detector.detections_per_img) == (0.01, 0.45, 200)
        assert detector.neg_to_pos_ratio == 3
        assert detector.proposal_matcher.high_threshold == 0.5

    def test_offsets_have_the_variances(self):
        anchor, box = torch.tensor([[10.0, 20, 30, 60]]), torch.tensor([[14.0, 18, 44, 70]])
        (centre, size), (variance_centre, variance_size) = ((29, 44), (30, 52)), (0.1, 0.2)
        expected = [
            (centre[0] - 20) / 20 / variance_centre,
            (centre[1] - 40) / 40 / variance_centre,
            math.log(size[0] / 20) / variance_size,
            math.log(size[1] / 40) / variance_size,
        ]
        offsets = small_ssd().box_coder.encode_single(box, anchor)
        torch.testing.assert_close(offsets, torch.tensor([expected]))

    def test_numbers_can_be_changed(self):
        detector = small_ssd(score_thresh=0.2, positive_fraction=0.5, detections_per_img=3)
        assert (detector.score_thresh, detector.neg_to_pos_ratio) == (0.2, 1)
        assert all(len(d["scores"]) <= 3 for d in detector.eval()(scene()[0]))


@pytest.mark.parametrize("kind", ["ssd", "stairnet"])
@pytest.mark.parametrize("attention", list_attention())
def test_a_step_of_training_reaches_every_parameter(kind, attention):
    torch.manual_seed(0)
    in_blocks = {"backbone_attention": "cbam", "backbone_attention_options": {"reduction": 2}}
    detector = randomise(small_ssd(kind, attention=attention, **in_blocks)).train()
    for parameter in detector.head.attention.parameters():
        if not parameter.any():  # what follows or precedes a weight of 0 has no gradient
            parameter.data.fill_(0.5)
    images, targets = scene()
    sides = (10.0, 20.0, 34.0, 50.0)  # a match on every map
    for target in targets:
        target["boxes"] = torch.tensor([[4, 4, 4 + side, 4 + side] for side in sides])
        target["labels"] = torch.tensor([1, 2, 3, 1])
    losses = detector(images, targets)
    assert losses.keys() == {"bbox_regression", "classification"}
    sum(losses.values()).backward()
    for name, parameter in detector.named_parameters():
        assert parameter.grad.isfinite().all(), name
        # A bias before a BatchNorm or a softmax changes nothing.
        if not name.startswith("head.attention") or not name.endswith("bias"):
            assert parameter.grad.any(), name


def test_detections_are_sorted_boxes_inside_the_image():
    detector = randomise(small_ssd("stairnet", attention="cbam")).eval()
    with torch.no_grad():
        found = detector([torch.rand(3, 50, 80), torch.rand(3, 64, 64)])
    for one, (height, width) in zip(found, ((50, 80), (64, 64)), strict=True):
        assert one["boxes"].shape == (len(one["scores"]), 4)
        assert 0 < len(one["scores"]) <= 200
        assert (one["scores"].diff() <= 0).all()
        assert set(one["labels"].tolist()) <= {1, 2, 3}
        boxes = one["boxes"]
        assert (boxes >= 0).all()
        assert (boxes[:, 2] <= width + 1e-3).all()
        assert (boxes[:, 3] <= height + 1e-3).all()


def test_images_without_boxes_have_a_finite_loss():
    detector = small_ssd("stairnet", attention="cbam").train()
    images, targets = scene()
    mixed = [targets[0], *without_boxes(targets[1:])]
    for given in (mixed, without_boxes(targets)):
        assert all(loss.isfinite() for loss in detector(images, given).values())


def test_training_finds_the_boxes_of_one_scene():
    torch.manual_seed(0)
    detector = small_ssd("stairnet", attention="cbam", freeze_batch_norm=True)
    optimizer = torch.optim.Adam(detector.parameters(), lr=2e-3)
    images, targets = scene()
    for _ in range(40):
        optimizer.zero_grad()
        sum(detector(images, targets).values()).backward()
        optimizer.step()
    with torch.no_grad():
        found = detector.eval()(images)
    for one, target in zip(found, targets, strict=True):
        assert one["labels"][0] == target["labels"][0]
        torch.testing.assert_close(one["boxes"][:1], target["boxes"], rtol=0, atol=4)


class TestAttention:
    @pytest.mark.parametrize(("name", "kind"), [("se", SqueezeExcite), ("cbam", CBAM)])
    def test_one_module_a_scale_right_before_the_heads(self, name, kind):
        detector = randomise(small_ssd("stairnet", attention=name)).eval()
        assert [type(module) for module in detector.head.attention] == [kind] * 4
        maps = list(detector.backbone(torch.rand(2, 3, 64, 64)).values())
        expected = [a(x) for a, x in zip(detector.head.attention, detector.head.top_down(maps), strict=True)]
        logits = detector.head(maps)["cls_logits"]
        start = 0
        for conv, x in zip(detector.head.classification_head.module_list, expected, strict=True):
            answers = conv(x)  # (N, A * K, h, w)
            n, _, h, w = answers.shape
            answers = answers.reshape(n, 6, 4, h, w).permute(0, 3, 4, 1, 2).reshape(n, -1, 4)
            torch.testing.assert_close(logits[:, start : start + 6 * h * w], answers)
            start += 6 * h * w
        assert start == logits.shape[1]

    def test_has_its_own_initial_values(self):
        detector = small_ssd("stairnet", attention="cbam")
        for module in detector.head.attention:
            assert not module.spatial.bn.weight.any()
            fan_out = 49  # Kaiming normal of one output channel; Xavier's bound would be sqrt(6 / 147)
            assert module.spatial.conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.3)

    def test_other_weights_are_the_same_with_every_attention(self):
        def built(attention, backbone_attention):
            torch.manual_seed(3)
            detector = small_ssd("stairnet", attention=attention, backbone_attention=backbone_attention)
            return detector.state_dict()

        plain = built("none", "none")
        for attention, backbone_attention in (("cbam", "none"), ("se", "cbam")):
            attended = built(attention, backbone_attention)
            assert plain.keys() < attended.keys()
            assert all(torch.equal(value, attended[key]) for key, value in plain.items())

    def test_options_are_passed_on(self):
        detector = small_ssd(attention="cbam", attention_options={"gate": "identity", "reduction": 2})
        assert detector.head.attention[0].channel.gate == "identity"
        assert detector.head.attention[0].channel.mlp[0].out_features == 32
