"""Detectors that are small enough for the tests, and images with boxes for them."""

import torch

from cbam_lightning.models.detection import create_detector

# A ResNet of each kind with a block a stage.
LARGE = {"depths": (1, 1, 1, 1), "widths": (8, 8, 16, 16)}
SMALL = {"depths": (1, 1, 1), "widths": (4, 8, 16)}
FASTER_RCNN = {"min_size": 64, "max_size": 96}


def on_meta(name, **options):
    with torch.device("meta"):
        return create_detector(name, **options)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def small_ssd(kind="ssd", **options):
    return create_detector(f"{kind}_resnet8", **{"num_classes": 4, "size_px": 64, **options})


def small_faster_rcnn(kind="c4", resnet="resnet18", **options):
    backbone_options = {**LARGE, **options.pop("backbone_options", {})}
    narrow = {"pyramid_channels": 16, "representation_size": 32} if kind == "fpn" else {}
    options = {"num_classes": 4, **FASTER_RCNN, **narrow, **options}
    return create_detector(f"faster_rcnn_{resnet}_{kind}", backbone_options=backbone_options, **options)


def scene(number=2, channels=3, size=(64, 64), dtype=torch.float32, seed=0):
    """Return images with one bright rectangle each, and its box and class."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(number, channels, *size, generator=generator, dtype=dtype) * 0.3
    targets = []
    for index, image in enumerate(images):
        left, top = 8 + 3 * index, 12 + 2 * index
        image[:, top : top + 24, left : left + 30] += 0.6
        box = [[left, top, left + 30, top + 24]]
        targets.append({"boxes": torch.tensor(box, dtype=dtype), "labels": torch.tensor([1 + index % 3])})
    return list(images), targets


def without_boxes(targets):
    return [{"boxes": t["boxes"][:0], "labels": t["labels"][:0]} for t in targets]


def randomise(detector, seed=0):
    """Give BatchNorms statistics and weights that training gives, so that every gate is open differently."""
    generator = torch.Generator().manual_seed(seed)
    for module in detector.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            shape = module.running_mean.shape
            module.running_mean.copy_(torch.randn(shape, generator=generator) * 0.1)
            module.running_var.copy_(torch.rand(shape, generator=generator) + 0.5)
            module.weight.data.copy_(torch.rand(shape, generator=generator) + 0.5)
            module.bias.data.copy_(torch.randn(shape, generator=generator) * 0.1)
    return detector
