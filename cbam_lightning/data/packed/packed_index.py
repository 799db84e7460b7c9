"""The index of a packed set: one JSON file, written last, next to or above LitData's own indices."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cbam_lightning.data.folder_layout import PARTS, nfc
from cbam_lightning.data.packed.shards import DATA_FORMATS, INDEX_ERRORS, Encoding, damaged_index

PACKED_INDEX = "packed-index.json"
FORMAT = 1

# How the file begins: with the hash of the rest. Files of early versions have no hash.
_SEAL = re.compile(rb'\{"sha256": "([0-9a-f]{64})", ')

MAX_NAME_BYTES = 4096  # Linux's PATH_MAX; each name takes the space of the longest


@dataclass(frozen=True)
class PackedPart:
    """The images of a part.

    Attributes:
        names: Paths relative to the part's folder, in its order; each starts with the class and a slash.
        order: Positions in ``names``, in the order of the shards.
        skipped: Reasons why files could not be read, by their positions in ``names``.
        index_sha256: SHA-256 of LitData's index of the part.
    """

    names: list[str]
    order: list[int]
    skipped: dict[int, str]
    index_sha256: str

    def labels(self, class_names: tuple[str, ...]) -> list[int]:
        """Return the class of each image, as a position in ``class_names``."""
        positions = {nfc(name): label for label, name in enumerate(class_names)}
        return [positions[nfc(name.partition("/")[0])] for name in self.names]


@dataclass(frozen=True)
class PackedIndex:
    """The index of a packed set.

    Attributes:
        name: Name of the folder that held the images.
        classes: Names of the classes, sorted.
        encoding: How the shards store an image.
        shorter_side_px: Largest length of an image's shorter side; larger images were shrunk to it.
        parts: The parts by name; see ``FolderSource``.
    """

    name: str
    classes: tuple[str, ...]
    encoding: Encoding
    shorter_side_px: int
    parts: Mapping[str, PackedPart]

    def to_json(self) -> str:
        """Return the content of the file."""
        fields = json.dumps({"format": FORMAT, **asdict(self)}).removeprefix("{")
        return f'{{"sha256": "{hashlib.sha256(fields.encode()).hexdigest()}", {fields}'

    @classmethod
    def from_json(cls, content: bytes, where: str) -> PackedIndex:
        """Parse the content of the file.

        Args:
            content: Untrusted content of the file.
            where: Path or URL of the file, for error messages.

        Raises:
            UsageError: The file is damaged, or of a later version of this package.
        """
        seal = _SEAL.match(content)
        if seal and hashlib.sha256(content[seal.end() :]).hexdigest().encode() != seal[1]:
            raise damaged_index(where, "its content has another SHA-256 than it begins with")
        try:
            fields: dict[str, Any] = json.loads(content)
            if seal:
                del fields["sha256"]
            version = fields.pop("format")
            parts = {name: _part(part) for name, part in fields.pop("parts").items()}
            index = cls(**fields | {"classes": tuple(fields["classes"])}, parts=parts)
            known = index.encoding in DATA_FORMATS and set(parts) <= {"", *PARTS}
            known = known and isinstance(index.shorter_side_px, int) and isinstance(index.name, str)
            known = known and all(isinstance(name, str) for name in index.classes)
            whole = known and all(_is_whole(part, index.classes) for part in parts.values())
        except INDEX_ERRORS as error:
            raise damaged_index(where, "it is not an index of packed images") from error
        if version != FORMAT:
            raise damaged_index(where, f"its format is {version!r:.80}, where this version reads {FORMAT}")
        if not whole:
            raise damaged_index(where, "its lists do not fit each other")
        return index


@dataclass(frozen=True)
class PackingSummary:
    """What was written.

    Attributes:
        index: Index of the packed set.
        num_shards: Number of shards.
        num_bytes: Total size of the shards in bytes.
    """

    index: PackedIndex
    num_shards: int
    num_bytes: int

    def describe(self) -> str:
        """Return the counts, and the files that were left out, in lines of "name  value"."""
        index = self.index
        counts = {name or "images": len(p.names) - len(p.skipped) for name, p in index.parts.items()}
        lines = {name: str(count) for name, count in counts.items()}
        lines["classes"] = str(len(index.classes))
        lines["encoding"] = f"{index.encoding}, shorter side at most {index.shorter_side_px} px"
        per_image = self.num_bytes / max(1, sum(counts.values()))
        lines["bytes"] = f"{self.num_bytes} in {self.num_shards} shards, {per_image:.0f} per image"
        for name, part in index.parts.items():
            for position, reason in part.skipped.items():
                lines[f"left out {len(lines)}"] = f"{Path(name, part.names[position])}: {reason}"
        return "\n".join(f"{name:<18}{value}" for name, value in lines.items())


def _part(fields: dict[str, Any]) -> PackedPart:
    skipped = {int(position): str(reason) for position, reason in fields["skipped"].items()}
    return PackedPart(**fields | {"skipped": skipped})


def _is_whole(part: PackedPart, classes: tuple[str, ...]) -> bool:
    part.labels(classes)  # KeyError for a class that is not listed
    fits = sorted(part.order) == list(range(len(part.names))) and all(type(p) is int for p in part.order)
    return fits and all(len(os.fsencode(name)) <= MAX_NAME_BYTES for name in part.names)
