"""What ``cbam-lightning explain`` looks at: the networks and the images that its options name."""

from __future__ import annotations

import argparse
from typing import Any

from cbam_lightning import data
from cbam_lightning.benchmarks import choose_device
from cbam_lightning.checks import check_positive
from cbam_lightning.data.class_folders import ClassFolderModule
from cbam_lightning.data.detection.viewing import ScenesToView, scene_files
from cbam_lightning.data.viewing import ImagesToView, evenly, image_files, spread
from cbam_lightning.errors import UsageError, unknown_name
from cbam_lightning.explain.detectors import FindingSubject, open_detectors
from cbam_lightning.explain.gradcam import PREDICTED
from cbam_lightning.explain.subjects import Subject, open_subjects
from cbam_lightning.user_code.class_paths import find_class, import_class_path
from cbam_lightning.weights import Header

_FOR_CLASSIFIERS = ("layer", "target", "masks")


def open_classification(given: argparse.Namespace) -> tuple[list[Subject], ImagesToView]:
    """Return classifiers and images, both of which are checked before anything is computed.

    Raises:
        UsageError: Something that the user gave is wrong.
    """
    _check(given)
    subjects = open_subjects(given.checkpoints, given.layer, choose_device(given.device))
    header = subjects[0].header
    target_of(given, subjects[0])
    if given.images is not None:
        dataset = image_files(given.images, size_of(header), header.in_channels, subjects[0].class_names)
        return subjects, spread(dataset, given.limit)
    chosen = _chosen(given, data.ImageDataModule)
    options: dict[str, Any] = {}
    if issubclass(chosen, ClassFolderModule):
        options["size_px"] = header.size_px
    if chosen is data.ImageFolder:
        options["in_channels"] = header.in_channels
    if chosen is data.FashionMNIST and given.root:
        options["source"] = "full"
    module = _made(given, chosen, options)
    _check_fits(module, header, given.data, ("size_px", "in_channels", "num_classes"))
    return subjects, spread(module.split_set(given.split), given.limit)


def open_detection(given: argparse.Namespace) -> tuple[list[FindingSubject], ScenesToView]:
    """Return detectors and images, both of which are checked before anything is computed.

    Raises:
        UsageError: Something that the user gave is wrong.
    """
    _check(given)
    for name in _FOR_CLASSIFIERS:
        if getattr(given, name) is not None:
            message = f"--{name} is for classifiers; of detectors the boxes are drawn. Leave it out."
            raise UsageError(message)
    subjects = open_detectors(given.checkpoints, choose_device(given.device))
    header = subjects[0].network.header
    if given.images is not None:
        dataset = scene_files(given.images, header.in_channels)
        return subjects, ScenesToView(dataset, evenly(len(dataset), given.limit))
    chosen = _chosen(given, data.DetectionDataModule)
    options: dict[str, Any] = {"in_channels": header.in_channels, "augmentation": "none"}
    if chosen is data.VOCDetection:
        options |= {"size_px": None, "class_names": subjects[0].class_names}
    if chosen is data.FashionScenes and header.size_px:
        options["size_px"] = header.size_px
    module = _made(given, chosen, options)
    _check_fits(module, header, given.data, ("in_channels", "num_classes"))
    split = module.split_set(given.split)
    return subjects, ScenesToView(split, evenly(len(split), given.limit))


def _check(given: argparse.Namespace) -> None:
    check_positive("batch_size", given.batch_size)
    if (given.images is None) == (given.data is None):
        message = "give either --images PATH or --data NAME: what the networks shall look at."
        raise UsageError(message)


def _chosen(given: argparse.Namespace, kind: type) -> Any:
    """Return the data module that was asked for, one of a kind."""
    import_class_path(given.data, "--data")
    found = {name: getattr(data, name) for name in data.__all__}
    if own := find_class(given.data):
        found[given.data] = own
    # no option of this command can say what a TorchDataset is made of
    bare = (kind, data.TorchDataset)
    modules = {name: c for name, c in found.items() if issubclass(c, kind) and c not in bare}
    if given.data not in modules:
        raise unknown_name(kind="data module", given=given.data, allowed=modules)
    if given.split not in ("test", "val"):
        raise unknown_name(kind="split", given=given.split, allowed=("test", "val"))
    return modules[given.data]


def _made(given: argparse.Namespace, chosen: Any, options: dict[str, Any]) -> Any:
    if given.root:
        options["root"] = given.root
    try:
        return chosen(**options)
    except TypeError:
        message = f"{given.data} needs --root, the folder of its files."
        raise UsageError(message) from None


def _check_fits(module: Any, header: Header, name: str, same: tuple[str, ...]) -> None:
    theirs = {key: getattr(header, key) for key in same}
    wrong = [f"{key} {value}" for key, value in theirs.items() if getattr(module, key) != value]
    if header.class_names is not None and tuple(header.class_names) != tuple(module.class_names):
        wrong = wrong or ["other classes"]
    if wrong:
        message = f"the networks are for images and classes other than those of {name}: {', '.join(wrong)}."
        raise UsageError(message)


def target_of(given: argparse.Namespace, subject: Subject) -> int | None:
    """Return the class to explain: its label, -1 for the predicted one, ``None`` for each image's own.

    Raises:
        UsageError: The network has no such class.
    """
    if given.target is None or given.target in subject.class_names:
        return None if given.target is None else subject.class_names.index(given.target)
    if given.target == "predicted":
        return PREDICTED
    raise unknown_name(kind="class", given=given.target, allowed=["predicted", *subject.class_names])


def size_of(header: Header) -> int:
    """Return the size of a classifier's images in pixels."""
    return header.size_px or 0  # a subject without a size is refused
