"""The data of ``predict``: any folder of images, prepared as the checkpoint or the weights say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_info

from cbam_lightning.data.class_folders import EVAL_RESIZE_RATIO
from cbam_lightning.data.unlabelled_images import UnlabelledImages
from cbam_lightning.models.pretrained import open_checkpoint
from cbam_lightning.user_code.class_paths import find_class

_PACKAGE = "cbam_lightning.data"
_DATA = f"{_PACKAGE}.UnlabelledImages"
_CLASS_FOLDERS = (f"{_PACKAGE}.ImageFolder", f"{_PACKAGE}.ImageNet")
_OF_DATA = ("size_px", "in_channels", "mean", "std")
_KEPT = (*_OF_DATA, "predict_path", "batch_size", "num_workers", "on_bad_image", "eval_transform")
# Data sets of class folders crop at every size; see ``ClassFolderModule``.
_CROPPED = ("image_folder:", "imagenet")


def needs_default_data(given: Mapping[str, Any]) -> bool:
    """Return whether the user, who sets some options, names images to predict and no data module."""
    return "data.predict_path" in given and not given.keys() & {"data", "data.class_path"}


def default_data(given: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the data module of the images to predict, as in a configuration.

    Args:
        given: What the user sets, by dotted name.
        model: ``class_path`` and ``init_args`` of the model, as the checkpoint or the weights know them.

    Returns:
        ``class_path`` and ``init_args``; ``None`` if the user names a data module or no images, or the model
        takes other data.
    """
    if not needs_default_data(given):
        return None
    task, known = find_class(model["class_path"]), model["init_args"]
    if task is None or not issubclass(UnlabelledImages, getattr(task, "data_class", object)):
        return None
    options = {name: known[name] for name in _OF_DATA if known.get(name) is not None}
    if known.get("size_px") and str(known.get("dataset")).startswith(_CROPPED):
        options["eval_resize_px"] = _cropped(known["size_px"])
    return {"class_path": _DATA, "init_args": options}


def model_of_weights(given: Mapping[str, Any], default_class: str) -> dict[str, Any]:
    """Return the model of weights with their classes, which no data set gives, as in a configuration.

    Args:
        given: What the user sets, by dotted name.
        default_class: Class of the model if the user names none.
    """
    header = open_checkpoint(given["model.weights"], given.get("model.network")).header
    options = {name: getattr(header, name) for name in ("num_classes", "class_names", "dataset", *_OF_DATA)}
    class_path = given.get("model.class_path", given.get("model", default_class))
    return {"class_path": class_path, "init_args": options}


def without_data_set(data: Any) -> dict[str, Any] | None:
    """Return the data module of the images to predict in place of one whose data set is not here.

    Args:
        data: ``class_path`` and ``init_args`` of a data module.

    Returns:
        The same of ``UnlabelledImages``; ``None`` if the data set is here, or is of another kind.
    """
    if data is None or data["class_path"] not in _CLASS_FOLDERS:
        return None
    options = data["init_args"]
    root = str(options["root"])
    if not options.get("predict_path") or "://" in root or Path(root).is_dir():
        return None
    rank_zero_info(f"{root} is not here; the images to predict do not need it.")
    kept = {name: options[name] for name in _KEPT if name in options}
    return {"class_path": _DATA, "init_args": {**kept, "eval_resize_px": _cropped(options["size_px"])}}


def _cropped(size_px: int) -> int:
    return round(size_px * EVAL_RESIZE_RATIO)
