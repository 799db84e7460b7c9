"""Detectors by name."""

import subprocess
import sys

import torch

from cbam_lightning.models import list_models
from cbam_lightning.models.detection import create_detector, describe_detectors, list_detectors
from cbam_lightning.models.detection.detector_registry import DETECTORS, network_kind


def test_all_of_the_kinds():
    names = list_detectors()
    assert {"ssd300_vgg16", "stairnet_vgg16", "ssd_resnet20", "stairnet_resnet20"} <= set(names)
    depths = (18, 34, 50, 101)
    assert {f"faster_rcnn_resnet{d}_{k}" for d in depths for k in ("c4", "fpn")} <= set(names)
    assert not [n for n in names if "cifar" in n and n.startswith("faster")]
    assert list_detectors("ssd_resnet[0-9]?") == [f"ssd_resnet{d}" for d in (14, 20, 32, 44, 56)]
    assert names.index("ssd_resnet8") < names.index("ssd_resnet14")


def test_every_name_can_be_built_and_says_what_it_is():
    descriptions = describe_detectors()
    assert list(descriptions) == list_detectors()
    assert len(set(descriptions.values())) == len(descriptions)
    with torch.device("meta"):
        for name in list_detectors("*resnet8") + list_detectors("*resnet18*") + list_detectors("*resnext50*"):
            detector = create_detector(name)
            assert detector.header.network == name
            assert (detector.header.num_classes, detector.in_channels) == (20, 3)


def test_every_resnet_is_a_backbone():
    backbones = {architecture.backbone for architecture in DETECTORS.values()}
    assert backbones == {"torchvision/vgg16", *(name for name in list_models() if "res" in name)}


def test_listing_does_not_import_torch():
    code = (
        "import sys; from cbam_lightning.models.detection import list_detectors as l;"
        "assert l(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_name_says_the_kind_of_network():
    assert network_kind("ssd300_vgg16") == "detector"
    assert network_kind("resnet20") == network_kind("my_package.MyNet") == "classifier"
