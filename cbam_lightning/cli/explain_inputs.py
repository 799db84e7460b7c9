"""The networks and images that the options of ``cbam-lightning explain`` name."""

from __future__ import annotations

import argparse
import inspect
from typing import Any

from cbam_lightning import data
from cbam_lightning.benchmarks import choose_device
from cbam_lightning.checks import check_positive
from cbam_lightning.data.detection.viewing import ScenesToView, scene_files
from cbam_lightning.data.viewing import ImagesToView, evenly, image_files, spread
from cbam_lightning.errors import UsageError, unknown_name
from cbam_lightning.explain.detections import NamedDetector, open_detectors
from cbam_lightning.explain.gradcam import PREDICTED
from cbam_lightning.explain.networks import ExplainedNetwork, open_networks
from cbam_lightning.user_code.class_paths import find_class, import_class_path
from cbam_lightning.weights import Header

_CLASSIFIER_OPTIONS = ("layer", "target", "masks")


def open_classification(given: argparse.Namespace) -> tuple[list[ExplainedNetwork], ImagesToView]:
    """Return classifiers and images, both checked before anything is computed.

    Raises:
        UsageError: An option has a wrong value.
    """
    _check(given)
    networks = open_networks(given.checkpoints, given.layer, choose_device(given.device))
    header = networks[0].header
    target_of(given, networks[0])
    if given.images is not None:
        dataset = image_files(given.images, size_of(header), header.in_channels, networks[0].class_names)
    else:
        module_class = _module_class(given, data.ImageDataModule)
        accepted = inspect.signature(module_class).parameters
        options = {name: getattr(header, name) for name in ("size_px", "in_channels") if name in accepted}
        if given.root and "source" in accepted:
            options["source"] = "full"
        dataset = _split(given, module_class, options, header, ("size_px", "in_channels", "num_classes"))
    return networks, spread(dataset, given.limit)


def open_detection(given: argparse.Namespace) -> tuple[list[NamedDetector], ScenesToView]:
    """Return detectors and images, both checked before anything is computed.

    Raises:
        UsageError: An option has a wrong value.
    """
    _check(given)
    for name in _CLASSIFIER_OPTIONS:
        if getattr(given, name) is not None:
            message = f"--{name} is for classifiers; for detectors `explain` draws boxes. Omit it."
            raise UsageError(message)
    detectors = open_detectors(given.checkpoints, choose_device(given.device))
    header = detectors[0].network.header
    if given.images is not None:
        dataset: Any = scene_files(given.images, header.in_channels)
    else:
        module_class = _module_class(given, data.DetectionDataModule)
        options: dict[str, Any] = {"in_channels": header.in_channels, "augmentation": "none"}
        if module_class is data.VOCDetection:
            options |= {"size_px": None, "class_names": detectors[0].class_names}
        if module_class is data.FashionScenes and header.size_px:
            options["size_px"] = header.size_px
        dataset = _split(given, module_class, options, header, ("in_channels", "num_classes"))
    return detectors, ScenesToView(dataset, evenly(len(dataset), given.limit))


def _check(given: argparse.Namespace) -> None:
    check_positive("batch_size", given.batch_size)
    if (given.images is None) == (given.data is None):
        message = "give either --images PATH or --data NAME: the images to explain."
        raise UsageError(message)


def _module_class(given: argparse.Namespace, base: type) -> Any:
    """Return the data module that ``--data`` names, a subclass of ``base``."""
    import_class_path(given.data, "--data")
    classes = {name: getattr(data, name) for name in data.__all__}
    if user_class := find_class(given.data):
        classes[given.data] = user_class
    # this command has no options for the data sets of a TorchDataset
    excluded = (base, data.TorchDataset)
    allowed = {name: c for name, c in classes.items() if issubclass(c, base) and c not in excluded}
    if given.data not in allowed:
        raise unknown_name(kind="data module", given=given.data, allowed=allowed)
    if given.split not in ("test", "val"):
        raise unknown_name(kind="split", given=given.split, allowed=("test", "val"))
    return allowed[given.data]


def _split(
    given: argparse.Namespace,
    module_class: Any,
    options: dict[str, Any],
    header: Header,
    compared: tuple[str, ...],
) -> Any:
    """Return a split of a data module, which must be for the same images and classes as the networks."""
    if given.root:
        options["root"] = given.root
    try:
        module = module_class(**options)
    except TypeError:
        message = f"{given.data} needs --root, the folder of its files."
        raise UsageError(message) from None
    expected = {name: getattr(header, name) for name in compared}
    wrong = [f"{name} {value}" for name, value in expected.items() if getattr(module, name) != value]
    if header.class_names is not None and tuple(header.class_names) != tuple(module.class_names):
        wrong = wrong or ["other classes"]
    if wrong:
        message = f"the networks expect other images or classes than {given.data}: {', '.join(wrong)}."
        raise UsageError(message)
    return module.split_set(given.split)


def target_of(given: argparse.Namespace, network: ExplainedNetwork) -> int | None:
    """Return the class to explain: its label, -1 for the predicted one, ``None`` for each image's own.

    Raises:
        UsageError: The network has no such class.
    """
    if given.target is None or given.target in network.class_names:
        return None if given.target is None else network.class_names.index(given.target)
    if given.target == "predicted":
        return PREDICTED
    raise unknown_name(kind="class", given=given.target, allowed=["predicted", *network.class_names])


def size_of(header: Header) -> int:
    """Return the size of a classifier's images in pixels."""
    return header.size_px or 0  # a network without a size was refused
