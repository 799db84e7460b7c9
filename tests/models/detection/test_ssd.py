"""SSD and StairNet: published sizes, default boxes, the recipe's numbers, and a step of training."""

import math

import pytest
import torch
from torchvision.models.detection.image_list import ImageList

from cbam_lightning.attention import CBAM, SqueezeExcite
from cbam_lightning.errors import UsageError
from cbam_lightning.models.detection import create_detector
from tests.models.detection.scenes import randomise, scene, small_ssd, without_boxes


def on_meta(name, **options):
    with torch.device("meta"):
        return create_detector(name, **options)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


class TestPublishedSizes:
    # Millions: https://arxiv.org/abs/1807.06521, table 8.
    @pytest.mark.parametrize(
        ("name", "attention", "exact", "millions"),
        [
            ("ssd300_vgg16", "none", 26_515_936, 26.5),
            ("stairnet_vgg16", "none", 32_005_600, 32.0),
            ("stairnet_vgg16", "se", 32_056_384, 32.1),
            ("stairnet_vgg16", "cbam", 32_056_984, 32.1),
        ],
    )
    def test_voc(self, name, attention, exact, millions):
        total = count(on_meta(name, attention=attention, num_classes=21))
        assert total == exact
        assert round(total / 1e6, 1) == millions

    def test_the_default_is_voc_without_attention(self):
        assert count(on_meta("ssd300_vgg16")) == 26_515_936

    @pytest.mark.parametrize("attention", ["se", "cbam"])
    def test_attention_of_ssd_has_the_literal_number(self, attention):
        plain, attended = on_meta("ssd300_vgg16"), on_meta("ssd300_vgg16", attention=attention)
        channels = (512, 1024, 512, 256, 256, 256)
        extra = sum(2 * c * (c // 16) + c // 16 + c for c in channels)
        extra += {"se": 0, "cbam": 6 * (2 * 49 + 2)}[attention]
        assert count(attended) - count(plain) == extra


class TestDefaultBoxes:
    def test_are_those_of_the_recipe(self):
        """https://github.com/weiliu89/caffe/blob/ssd/src/caffe/layers/prior_box_layer.cpp, in that order."""
        sizes_px = [(30, 60), (60, 111), (111, 162), (162, 213), (213, 264), (264, 315)]
        ratios = [(2, 3)] * 4 + [(2,)] * 2
        sides, steps = (38, 19, 10, 5, 3, 1), (8, 16, 32, 64, 100, 300)
        expected = []
        for (small, large), others, side, step in zip(sizes_px, ratios, sides, steps, strict=True):
            shapes = [(small, small), (math.sqrt(small * large),) * 2]
            for ratio in others:
                shapes.append((small * math.sqrt(ratio), small / math.sqrt(ratio)))
                shapes.append((small / math.sqrt(ratio), small * math.sqrt(ratio)))
            for row in range(side):
                for column in range(side):
                    x, y = (column + 0.5) * step, (row + 0.5) * step
                    for width, height in ((min(w, 300), min(h, 300)) for w, h in shapes):
                        expected.append((x - width / 2, y - height / 2, x + width / 2, y + height / 2))
        generator = on_meta("ssd300_vgg16").anchor_generator.to("cpu")
        generator = type(generator)(generator.aspect_ratios, scales=generator.scales, steps=generator.steps)
        images = ImageList(torch.empty(1, 3, 300, 300), [(300, 300)])
        (boxes,) = generator(images, [torch.empty(1, 1, side, side) for side in sides])
        assert len(boxes) == 11_620
        torch.testing.assert_close(boxes, torch.tensor(expected), rtol=0, atol=1e-3)

    def test_small_ones_cover_the_image_by_scale(self):
        detector = small_ssd(size_px=64).eval()
        maps = list(detector.backbone(torch.rand(1, 3, 64, 64)).values())
        assert [tuple(m.shape[2:]) for m in maps] == [(16, 16), (8, 8), (4, 4), (2, 2)]
        (boxes,) = detector.anchor_generator(ImageList(torch.empty(1, 3, 64, 64), [(64, 64)]), maps)
        assert len(boxes) == 6 * (256 + 64 + 16 + 4)
        widths = boxes[:, 2] - boxes[:, 0]
        first = [0, 6 * 256, 6 * 320, 6 * 336]
        expected = torch.tensor([0.14, 0.28, 0.5, 0.75]) * 64
        torch.testing.assert_close(widths[first], expected)
        torch.testing.assert_close(
            widths[[f + 1 for f in first]], (expected * torch.tensor([0.28, 0.5, 0.75, 1]) * 64).sqrt()
        )


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
@pytest.mark.parametrize("attention", ["none", "se", "cbam", "bam", "eca", "sagan"])
def test_a_step_of_training_reaches_every_parameter(kind, attention):
    torch.manual_seed(0)
    in_blocks = {"backbone_attention": "cbam", "backbone_attention_options": {"reduction": 2}}
    detector = randomise(small_ssd(kind, attention=attention, **in_blocks)).train()
    for module in detector.head.attention:
        if attention == "sagan":  # passes no gradient to the rest of it while gamma is 0
            module.gamma.data.fill_(0.5)
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
        if attention != "bam" or not name.endswith("bias"):  # a bias before a BatchNorm changes nothing
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


class TestVGG16:
    def test_maps_and_predictions_have_the_sizes_of_300_px(self):
        detector = on_meta("stairnet_vgg16", attention="cbam", num_classes=21).eval()
        maps = detector.backbone(torch.empty(2, 3, 300, 300, device="meta"))
        sizes = [(m.shape[1], m.shape[2], m.shape[3]) for m in maps.values()]
        assert sizes == [(512, 38, 38), (1024, 19, 19), (512, 10, 10), (256, 5, 5), (256, 3, 3), (256, 1, 1)]
        outputs = detector.head(list(maps.values()))
        assert outputs["bbox_regression"].shape == (2, 11_620, 4)
        assert outputs["cls_logits"].shape == (2, 11_620, 21)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["ssd300_vgg16", "stairnet_vgg16"])
    def test_trains_and_detects(self, name):
        torch.manual_seed(0)
        detector = randomise(create_detector(name, attention="cbam", num_classes=4)).train()
        images, targets = scene(size=(60, 80))
        sum(detector(images, targets).values()).backward()
        for key, parameter in detector.named_parameters():
            assert parameter.grad.isfinite().all(), key
        assert all(p.grad.any() for p in detector.head.attention[0].parameters())
        with torch.no_grad():
            assert len(detector.eval()(images)) == 2
        if name == "stairnet_vgg16":
            with pytest.raises(UsageError, match="batches of 2 or more"):
                detector.train()(images[:1], targets[:1])


class TestResNets:
    def test_of_four_stages_give_two_maps_of_their_own(self):
        detector = create_detector(
            "ssd_resnet18_cifar",
            size_px=32,
            backbone_options={"depths": (1, 1, 1, 1), "widths": (4, 4, 6, 10)},
        ).eval()
        maps = detector.backbone(torch.rand(1, 3, 32, 32))
        assert [(name, m.shape[1], m.shape[2]) for name, m in maps.items()] == [
            ("layer3", 6, 8),
            ("layer4", 10, 4),
            ("extra1", 128, 2),
            ("extra2", 128, 1),
        ]

    def test_number_of_maps_follows_the_scales(self):
        detector = small_ssd(scales=(0.2, 0.5, 0.9), aspect_ratios=[2])
        assert len(detector.head.classification_head.module_list) == 2
        assert detector.anchor_generator.num_anchors_per_location() == [4, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": (0.5, 0.2)}, r"scales is \(0.5, 0.2\); give 2 or more rising fractions"),
        ({"scales": (0.5,)}, "2 or more"),
        ({"scales": "0.1"}, "2 or more"),
        ({"aspect_ratios": (1, 2)}, "aspect_ratios is .* above 1"),
        ({"size_px": 0}, "size_px is 0; give a whole number of at least 1"),
        ({"score_thresh": 1.5}, "score_thresh is 1.5; give a number from 0 to 1"),
        ({"detections_per_img": 0.5}, "detections_per_img is 0.5; give a whole number"),
        ({"top_down_channels": 8}, "unknown detector option 'top_down_channels'"),
        ({"attention": "cbma"}, "unknown attention 'cbma'. Did you mean 'cbam'"),
        ({"attention_options": {"reduction": 2}}, "'none' has no options"),
        ({"backbone_options": {"depths": (1,), "widths": (8,)}}, "the backbone has 1 stages"),
        (
            {"scales": (0.2, 0.5), "backbone_options": {"depths": (1,) * 4, "widths": (8,) * 4}},
            "3 to 3 stages",
        ),
    ],
)
def test_refuses(options, message):
    with pytest.raises(UsageError, match=message):
        small_ssd(**options)
