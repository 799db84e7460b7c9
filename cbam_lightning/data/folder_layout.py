"""Which folders of a data set are its training, validation and test images, whatever their usual names."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path

from cbam_lightning.data.image_files import visible_entries
from cbam_lightning.errors import UsageError

PARTS = ("train", "val", "test")
# In lower case; of torchvision, Keras, Kaggle and Roboflow.
_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
_FEWEST_CLASSES = 2
_PART_OF = {name: part for part, names in _NAMES.items() for name in names}


def is_part_name(name: str) -> bool:
    """Return whether a folder of this name is a part."""
    return name.casefold() in _PART_OF


def find_parts(root: Path) -> dict[str, Path]:
    """Return the folders of the parts that ``root`` has, by "train", "val" and "test"; empty if it has none.

    Args:
        root: The folder of a data set.

    Raises:
        UsageError: Two folders are one part, or parts are beside other folders of images.
    """
    parts: dict[str, Path] = {}
    for entry in visible_entries(root):
        part = _PART_OF.get(entry.name.casefold())
        if part is None or not entry.is_dir():
            continue
        if part in parts:
            raise UsageError(
                f"{root} has two folders of {part} images, {parts[part].name} and {entry.name}; rename or "
                "move one of them."
            )
        parts[part] = entry
    if parts and "train" not in parts and (others := unused(root, parts)):
        raise UsageError(
            f"{root} has {_listed(folder.name for folder in parts.values())} beside {_listed(others)}: put "
            f"the training images into {root / 'train'}, one folder per class."
        )
    return {part: parts[part] for part in PARTS if part in parts}


def unused(root: Path, parts: dict[str, Path]) -> list[str]:
    """Return the names of the folders that are beside the parts."""
    return [e.name for e in visible_entries(root) if e.is_dir() and e not in parts.values()]


def class_folders(folder: Path) -> dict[str, Path]:
    """Return the class folders in a folder, by the name of the class; empty if there is no such folder.

    macOS decomposes letters such as é, other systems do not: names are compared in one form, NFC
    (https://unicode.org/reports/tr15).

    Raises:
        UsageError: Two folders have one name but for its form.
    """
    found: dict[str, Path] = {}
    for entry in visible_entries(folder) if folder.is_dir() else []:
        name = unicodedata.normalize("NFC", entry.name)
        if entry.is_dir() and name in found:
            raise UsageError(f"{folder} has two folders {name}, written in two forms of Unicode; join them.")
        if entry.is_dir():
            found[name] = entry
    return dict(sorted(found.items()))


def require_classes(root: Path) -> None:
    """Check that the folders in ``root`` are classes, and not parts of names that are not known.

    Raises:
        UsageError: All of them have the same folders in them, or folders of one part.
    """
    found = class_folders(root)
    shared: set[str] | None = None
    for folder in found.values():
        inner = set(class_folders(folder))
        shared = inner if shared is None else shared & inner
        if len(shared) < _FEWEST_CLASSES and not any(map(is_part_name, shared)):
            return
    if shared and len(found) >= _FEWEST_CLASSES:
        raise UsageError(
            f"the folders {_listed(found)} of {root} all have the folders {_listed(sorted(shared))}. If "
            "these are the classes, name the others train, val and test; if not, move them into "
            f"{root / 'train'}."
        )


def _listed(names: Iterable[str], most: int = 3) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
