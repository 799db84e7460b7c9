"""Detectors again from their own weights, and what is refused."""

import pytest
import torch

from cbam_lightning.errors import UsageError
from cbam_lightning.models.detection import create_detector
from cbam_lightning.weights import Header, load_checkpoint, save_checkpoint
from tests.models.detection.scenes import LARGE, SMALL, randomise, scene, small_faster_rcnn, small_ssd


def test_unknown_names():
    with pytest.raises(UsageError, match=r"unknown detector 'ssd30_vgg16'. Did you mean 'ssd300_vgg16'"):
        create_detector("ssd30_vgg16")
    with pytest.raises(UsageError, match="no detector and no weights"):
        create_detector()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 1}, "num_classes is 1; give the number of classes \\+ 1"),
        ({"num_classes": 2.5}, "num_classes is 2.5"),
        ({"in_channels": 0}, "in_channels is 0"),
        ({"mean": (0.5,)}, r"mean is \(0.5,\) .* give 3 numbers each"),
        ({"std": (0.5, 0.0, 0.5)}, "std above 0"),
        ({"sise_px": 3}, "unknown detector option 'sise_px'. Did you mean 'size_px'"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(UsageError, match=message):
        small_ssd(**options)


class TestWeights:
    BUILDERS = {
        "ssd": lambda: small_ssd(
            attention="cbam",
            attention_options={"gate": "identity", "pools": ("avg",)},
            backbone_attention="se",
            backbone_attention_options={"reduction": 2},
            backbone_options=SMALL,
            in_channels=1,
            mean=(0.3,),
            std=(0.2,),
            aspect_ratios=(2,),
            score_thresh=0.0,
        ),
        "stairnet": lambda: small_ssd("stairnet", attention="se", top_down_channels=8),
        "c4": lambda: small_faster_rcnn("c4", attention="cbam", attention_options={"reduction": 2}),
        "fpn": lambda: small_faster_rcnn("fpn", attention="cbam", rpn_nms_thresh=0.6),
    }

    @pytest.fixture(params=BUILDERS)
    def saved(self, request, tmp_path):
        torch.manual_seed(0)
        detector = randomise(self.BUILDERS[request.param]()).eval()
        save_checkpoint(tmp_path / "run.safetensors", detector.state_dict(), detector.header)
        return detector, tmp_path / "run.safetensors"

    def test_bring_the_same_detector_back(self, saved):
        detector, path = saved
        assert load_checkpoint(path).header.describe()
        again = create_detector(weights=path).eval()
        assert again.header.network_options.keys() == detector.header.network_options.keys()
        images, _ = scene(channels=detector.in_channels)
        with torch.no_grad():
            for one, two in zip(detector(images), again(images), strict=True):
                assert all(torch.equal(value, two[key]) for key, value in one.items())

    def test_other_classes_start_anew(self, saved):
        detector, path = saved
        with pytest.warns(UserWarning, match="has 3 classes, the network has 5: the class predictor"):
            other = create_detector(weights=path, num_classes=6)
        state = other.state_dict()
        for key, value in detector.state_dict().items():
            if "classification_head" not in key and "box_predictor" not in key:
                assert torch.equal(value, state[key]), key
        assert all(loss.isfinite() for loss in other.train()(*scene(channels=other.in_channels)).values())

    def test_of_a_plain_detector_fit_one_with_attention(self, tmp_path):
        detector = small_ssd("stairnet").eval()
        save_checkpoint(tmp_path / "run.safetensors", detector.state_dict(), detector.header)
        options = {"attention": "cbam", "attention_options": {"gate": "identity"}}
        attended = create_detector(weights=tmp_path / "run.safetensors", **options).eval()
        maps = list(detector.backbone(torch.rand(1, 3, 64, 64)).values())
        for one, two in zip(detector.head(maps).values(), attended.head(maps).values(), strict=True):
            assert torch.equal(one, two)

    def test_refuses_what_does_not_fit(self, saved, tmp_path):
        detector, path = saved
        name = detector.header.network
        refused = {
            r"is a .*, not a ssd300_vgg16": {"name": "ssd300_vgg16"},
            r"has attention .*, not 'eca'": {"attention": "eca"},
            r"was trained with gate .*, not '": {
                "attention_options": {
                    "gate": "sigmoid"
                    if detector.header.attention_options.get("gate") == "identity"
                    else "identity"
                }
            },
            "whole detector with its backbone; omit backbone_weights": {"backbone_weights": "a"},
            "with backbone_attention .*, not 'bam'; omit it": {"backbone_attention": "bam"},
        }
        for message, options in refused.items():
            with pytest.raises(UsageError, match=message):
                create_detector(weights=path, **options)
        broken = {k: v for k, v in detector.state_dict().items() if not k.startswith("backbone.")}
        save_checkpoint(tmp_path / "broken.safetensors", broken, detector.header)
        with pytest.raises(UsageError, match="belongs to another network"):
            create_detector(name, weights=tmp_path / "broken.safetensors")

    def test_refuses_a_classifiers(self):
        with pytest.raises(UsageError, match=r"resnet20, which is not a detector; .* as backbone_weights"):
            create_detector(weights="resnet20.fashion_mnist")


def test_header_is_plain():
    options = {"depths": (1, 1, 1, 1), "widths": (8, 8, 16, 16)}
    header = small_faster_rcnn(attention="cbam").header
    assert header.network_options == {"backbone_options": options, "min_size": 64, "max_size": 96}
    assert options == LARGE
    assert Header.from_metadata(header.to_metadata(), "x").network == "faster_rcnn_resnet18_c4"
