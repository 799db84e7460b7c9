"""Which folders of a data set are its training, validation and test images, whatever their usual names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from cbam_lightning.data.image_decoding import SUFFIXES
from cbam_lightning.data.image_files import visible_entries
from cbam_lightning.errors import UsageError

PARTS = ("train", "val", "test")
# In lower case and without "set"; of torchvision, Keras, Kaggle and Roboflow.
_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
_FEWEST_CLASSES = 2
_PART_OF = {name: part for part, names in _NAMES.items() for name in names}


def part_of(name: str) -> str | None:
    """Return the part that a folder of this name is, such as "train" for "Training" and "training_set"."""
    return _PART_OF.get(re.sub(r"[ _-]?set$", "", name.casefold()))


def _alike(names: Iterable[str]) -> list[str]:
    """Return names that are the same but for the name of a part in them, such as seg_train and seg_test."""
    found: dict[str, dict[str, str]] = {}
    for name in names:
        for word in re.finditer("[a-z]+", name.casefold()):
            if part := part_of(word[0]):
                around = f"{name[: word.start()]} {name[word.end() :]}".casefold()
                found.setdefault(around, {})[part] = name
    return next((list(alike.values()) for alike in found.values() if len(alike) > 1), [])


def find_parts(root: Path) -> dict[str, Path]:
    """Return the folders of the parts that ``root`` has, by "train", "val" and "test"; empty if it has none.

    Args:
        root: The folder of a data set.

    Raises:
        UsageError: Two folders are one part.
    """
    parts: dict[str, Path] = {}
    for entry in visible_entries(root):
        part = part_of(entry.name)
        if part is None or not entry.is_dir():
            continue
        if part in parts:
            raise UsageError(
                f"{root} has two folders of {part} images, {parts[part].name} and {entry.name}; rename or "
                "move one of them."
            )
        parts[part] = entry
    return {part: parts[part] for part in PARTS if part in parts}


def require_clear(root: Path, parts: dict[str, Path]) -> None:
    """Check that the folders in ``root`` are either parts or classes, and not both.

    A folder train with images directly in it is a class beside others, such as bus and car.

    Args:
        root: The folder of a data set.
        parts: Its parts, as ``find_parts`` returns them.

    Raises:
        UsageError: They may be either.
    """
    others = unused(root, parts)
    classes = class_folders(parts["train"]) if "train" in parts else {}
    held_out = [folder.name for part, folder in parts.items() if part != "train"]
    if classes:
        # beside several parts a folder may be anything, beside train alone it may be a class
        if beside := [n for n in others if nfc(n) in classes or (not held_out and count_images(root / n))]:
            raise UsageError(
                f"{root} has {_listed(beside)} beside {parts['train'].name}, which has class folders "
                f"({_listed(classes)}): move them into {parts['train'].name}, or out of {root}."
            )
    elif held_out and others:
        raise UsageError(
            f"{root} has {_listed(held_out)} beside {_listed(others)}: put the training images into "
            f"{root / 'train'}, one folder per class."
        )
    elif others:
        _require_classes(root)
        if alike := _alike(others):
            raise UsageError(
                f"the folders {_listed(alike)} of {root} look like parts, not like classes; rename them to "
                "train, val or test."
            )


def count_images(folder: Path) -> int:
    """Return how many files directly in a folder have the names of images."""
    entries = visible_entries(folder) if folder.is_dir() else []
    return sum(entry.name.lower().endswith(SUFFIXES) and entry.is_file() for entry in entries)


def unused(root: Path, parts: dict[str, Path]) -> list[str]:
    """Return the names of the folders that are beside the parts."""
    return [e.name for e in visible_entries(root) if e.is_dir() and e not in parts.values()]


def class_folders(folder: Path) -> dict[str, Path]:
    """Return the class folders in a folder, by the name of the class; empty if there is no such folder.

    macOS decomposes letters such as é, other systems do not: names are compared in one form, NFC
    (https://unicode.org/reports/tr15).

    Raises:
        UsageError: Two folders have one name but for its form, or a name is not text.
    """
    found: dict[str, Path] = {}
    for entry in visible_entries(folder) if folder.is_dir() else []:
        if not entry.is_dir():
            continue
        name = nfc(entry.name)
        if any("\ud800" <= character <= "\udfff" for character in name):
            raise UsageError(f"{folder} has a folder {name!a}, whose name is not text in UTF-8; rename it.")
        if name in found:
            raise UsageError(f"{folder} has two folders {name}, written in two forms of Unicode; join them.")
        found[name] = entry
    return dict(sorted(found.items()))


def nfc(name: str) -> str:
    """Return a name in the form of Unicode in which names are compared."""
    return unicodedata.normalize("NFC", name)


def _require_classes(root: Path) -> None:
    """Check that the folders in ``root`` are classes, and not parts of names that are not known.

    Raises:
        UsageError: All of them have the same folders in them, or folders of one part.
    """
    found = class_folders(root)
    shared: set[str] | None = None
    for folder in found.values():
        inner = set(class_folders(folder))
        shared = inner if shared is None else shared & inner
        if len(shared) < _FEWEST_CLASSES and not any(map(part_of, shared)):
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
