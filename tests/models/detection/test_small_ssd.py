"""SSD and StairNet on ResNets for small images."""

import pytest
import torch
from torchvision.models.detection.image_list import ImageList

from cbam_lightning.errors import UsageError
from cbam_lightning.models.detection import create_detector
from tests.models.detection.scenes import small_ssd


class TestDefaultBoxes:
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
        ({"scales": (0.5, 0.2)}, r"scales is \(0.5, 0.2\); give 2 or more ascending fractions"),
        ({"scales": (0.5,)}, "2 or more"),
        ({"scales": "0.1"}, "2 or more"),
        ({"aspect_ratios": (1, 2)}, "aspect_ratios is .* above 1"),
        ({"size_px": 0}, "size_px is 0; give a whole number of at least 1"),
        ({"score_thresh": 1.5}, "score_thresh is 1.5; give a number from 0 to 1"),
        ({"positive_fraction": 0}, "positive_fraction is 0; give a number above 0, up to 1"),
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
