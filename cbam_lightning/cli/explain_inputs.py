"""The networks that the options of ``cbam-lightning explain`` name, and what they see in the images."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from cbam_lightning import data
from cbam_lightning.benchmarks.machine import choose_device
from cbam_lightning.checks import check_positive
from cbam_lightning.cli.explained_data import build_module, module_class_of
from cbam_lightning.cli.explained_images import ExplainedImages
from cbam_lightning.data import image_selection
from cbam_lightning.data.class_folders import channel_statistics
from cbam_lightning.data.image_selection import ImageSelection, NamedImage, spread
from cbam_lightning.errors import UsageError, closest, first_names
from cbam_lightning.explain.detections import ImageDetections, NamedDetector, detect, open_detectors
from cbam_lightning.explain.explanations import ExplainedImage, InputImage, explain_images
from cbam_lightning.explain.gradcam import PREDICTED
from cbam_lightning.explain.networks import ExplainedNetwork, open_networks

if TYPE_CHECKING:
    from cbam_lightning.cli.explain_commands import ExplainInputs


def explain_classifiers(
    inputs: ExplainInputs, steps: int = 0, masks: str | None = None
) -> tuple[list[ExplainedNetwork], ExplainedImages, Iterator[ExplainedImage]]:
    """Return classifiers, the images, and an iterator that explains one image after the other.

    All options are checked before anything is computed.

    Raises:
        UsageError: An option has a wrong value; in the iterator, a network gives NaN.
    """
    _check(inputs)
    opened = open_networks(inputs.checkpoints, inputs.layer, choose_device(inputs.device), inputs.size_px)
    target = _target(inputs.target, opened[0])
    selection, mean, std = _classification_images(inputs, opened[0])
    networks = [_with_statistics(network, mean, std) for network in opened]
    images = ExplainedImages(selection, masks)

    def explained() -> Iterator[ExplainedImage]:
        for batch in images.batches(inputs.batch_size):
            shown = [_with_mask(one, *images.mask(one.name)) for one in batch]
            for one in explain_images(networks, shown, target, steps):
                _refuse_nan(one, networks)
                yield one

    return networks, images, explained()


def _with_mask(image: NamedImage, mask: Tensor | None, unmasked: str | None) -> InputImage:
    return InputImage(image.name, image.image, image.label, mask, unmasked)


def all_right(images: Iterable[ExplainedImage]) -> Iterator[ExplainedImage]:
    """Yield the images that all networks classify correctly.

    Raises:
        UsageError: The class of an image is unknown.
    """
    for image in images:
        if image.label < 0:
            raise UsageError(
                f"--only-right needs the classes of the images, and that of {image.name} is unknown; give a "
                "folder with a subfolder for each class, or leave --only-right out."
            )
        if all(one.predicted == image.label for one in image.explanations):
            yield image


def _with_statistics(
    network: ExplainedNetwork, mean: tuple[float, ...], std: tuple[float, ...]
) -> ExplainedNetwork:
    """Return a network whose checkpoint does not say how its images are normalised with these values."""
    if network.header.mean is not None and network.header.std is not None:
        return network
    shown = ", ".join(f"{value:g}" for value in mean), ", ".join(f"{value:g}" for value in std)
    message = "{} does not say how its images are normalised; taken are mean {} and std {}.".format(
        network.label, *shown
    )
    warnings.warn(message, stacklevel=2)
    return replace(network, header=replace(network.header, mean=mean, std=std))


def _refuse_nan(image: ExplainedImage, networks: Sequence[ExplainedNetwork]) -> None:
    for network, explanation in zip(networks, image.explanations, strict=True):
        if not math.isfinite(explanation.probability) or not explanation.map.isfinite().all():
            raise UsageError(f"{network.label} computes NaN or Inf for {image.name}; leave one of them out.")


def detect_objects(
    inputs: ExplainInputs, masks: str | None
) -> tuple[list[NamedDetector], ExplainedImages, Iterator[ImageDetections]]:
    """Return detectors, the images, and an iterator that runs the detectors on one image after the other.

    All options are checked before anything is computed.

    Raises:
        UsageError: An option has a wrong value.
    """
    _check(inputs)
    of_classifiers = {
        "layer": inputs.layer,
        "target": inputs.target,
        "size-px": inputs.size_px,
        "masks": masks,
    }
    for name, value in of_classifiers.items():
        if value is not None:
            raise UsageError(f"--{name} is for classifiers; for detectors `explain` draws boxes. Omit it.")
    detectors = open_detectors(inputs.checkpoints, choose_device(inputs.device))
    header = detectors[0].network.header
    if inputs.images is not None:
        dataset: Any = image_selection.open_scene_files(inputs.images, header.in_channels)
    else:
        module_class = module_class_of(inputs, data.DetectionDataModule)
        options: dict[str, Any] = {"in_channels": header.in_channels, "augmentation": "none"}
        if module_class is data.VOCDetection:
            options |= {"size_px": None, "class_names": detectors[0].class_names}
        if module_class is data.FashionScenes and header.size_px:
            options["size_px"] = header.size_px
        module = build_module(inputs, module_class, options, header, "in_channels", "num_classes")
        dataset = module.split_set(inputs.split)
    images = ExplainedImages(spread(dataset, inputs.limit))
    batches = images.batches(inputs.batch_size)
    return detectors, images, (image for batch in batches for image in detect(detectors, batch))


def _check(inputs: ExplainInputs) -> None:
    check_positive("batch_size", inputs.batch_size)
    if (inputs.images is None) == (inputs.data is None):
        raise UsageError("give either --images PATH or --data NAME: the images to explain.")


def _classification_images(
    inputs: ExplainInputs, network: ExplainedNetwork
) -> tuple[ImageSelection, tuple[float, ...], tuple[float, ...]]:
    """Return the images, and mean and std of their data set, or else, as for ``predict``, of ImageNet."""
    header = network.header
    if inputs.images is not None:
        size_px = header.size_px or 0  # a network without a size was refused
        files = image_selection.open_image_files(
            inputs.images, size_px, header.in_channels, network.class_names
        )
        channels: Any = header.in_channels
        return spread(files, inputs.limit), *channel_statistics(None, None, channels)
    module_class = module_class_of(inputs, data.ImageDataModule)
    options: dict[str, Any] = {"size_px": header.size_px, "in_channels": header.in_channels}
    if inputs.root:
        options["source"] = "full"
    module = build_module(inputs, module_class, options, header, "size_px", "in_channels", "num_classes")
    return spread(module.split_set(inputs.split), inputs.limit), module.mean, module.std


def _target(name: str | None, network: ExplainedNetwork) -> int | None:
    """Return the class to explain: its label, -1 for the predicted one, ``None`` for each image's own."""
    if name is None:
        return None
    names = network.class_names
    if name in names:
        return names.index(name)
    if name == "predicted":
        return PREDICTED
    if name.isdecimal() and int(name) < len(names):
        return int(name)
    raise UsageError(
        f"--target is {name!r}, which is no class.{closest(name, names)} Allowed: predicted, a number from 0 "
        f"to {len(names) - 1}, or a name of the classes{first_names(network.header.class_names)}."
    )
