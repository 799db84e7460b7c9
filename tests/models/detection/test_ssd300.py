"""SSD300 and StairNet on VGG16: published sizes, default boxes, maps."""

import math

import pytest
import torch
from torchvision.models.detection.image_list import ImageList

from cbam_lightning.errors import UsageError
from cbam_lightning.models.detection import create_detector
from tests.models.detection.scenes import count, on_meta, randomise, scene


class TestPublishedSizes:
    # Millions: https://arxiv.org/abs/1807.06521, VOC 2007.
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
