"""Finding the files of Pascal VOC: the names in its lists of images, and the files of these names."""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Collection
from pathlib import Path

from cbam_lightning.errors import UsageError

# In the lists of a class, 1 for images with it, -1 for others, 0 for those with difficult objects only.
_FLAGGED = re.compile(r"(.*\S)\s+(?:-1|0|1)")


class NamedFiles:
    """The files in a folder by their names without ending, which may contain spaces.

    The case of the ending does not count, nor does the Unicode form of the name, which file systems and
    archives change.

    Args:
        folder: The folder.
        suffixes: The endings, in lower case and with a dot.
    """

    def __init__(self, folder: Path, suffixes: tuple[str, ...]) -> None:
        self.folder = folder
        self.suffixes = suffixes
        self._files: dict[Path, dict[str, list[Path]]] = {}

    def find(self, name: str) -> list[Path]:
        """Return the files of a name, which may start with the names of folders."""
        path = self.folder / name
        if path.parent not in self._files:
            self._files[path.parent] = self._listed(path.parent)
        return self._files[path.parent].get(_composed(path.name), [])

    def _listed(self, folder: Path) -> dict[str, list[Path]]:
        files: dict[str, list[Path]] = {}
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            if path.suffix.lower() in self.suffixes and not path.name.startswith("."):
                files.setdefault(_composed(path.stem), []).append(path)
        return files


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def read_names(path: Path, annotations: NamedFiles) -> list[str]:
    """Read a list of images.

    Each line is a name, which may contain spaces, or each line is a name and a flag -1, 0 or 1; the
    annotations that exist say which.

    Args:
        path: The list, text in UTF-8, or in UTF-16 as Windows writes it.
        annotations: The annotation files.

    Raises:
        UsageError: There is no such list, it is empty, names an image twice, or can be read in both ways.
    """
    lines = [line.strip() for line in _text(path).split("\n") if line.strip()]
    readings = [lines]
    flagged = [_FLAGGED.fullmatch(line) for line in lines]
    if lines and all(flagged):
        readings.append([match[1] for match in flagged if match])
    known = [sum(bool(annotations.find(name)) for name in names) for names in readings]
    if len(readings) > 1 and min(known) == len(lines) and len(set(readings[1])) == len(lines):
        raise UsageError(
            f"{path}: it is not clear whether {lines[0]!r} is a name or a name and a flag, as there are "
            "annotations for both; rename the images."
        )
    names = readings[known.index(max(known))]
    _require_different(path, names)
    return names


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
        is_utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return content.decode("utf-16" if is_utf_16 else "utf-8-sig").replace("\r", "\n")
    except FileNotFoundError:
        raise UsageError(
            f"there is no {path}, the list of the images; unpack the archive of {path.stem} again."
        ) from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not text in UTF-8: {error}. Save it as UTF-8.") from None


def _require_different(path: Path, names: Collection[str]) -> None:
    number = len({_composed(name) for name in names})
    if not names or number != len(names):
        raise UsageError(f"{path} names {number} different images on {len(names)} lines; copy it again.")
