"""Checkpoints by name: the table in ``registry.json``, and the files behind it.

To add one: put the file into ``files/`` or at a URL, call ``make_entry`` on it, and append ``to_dict()`` of
the result to ``registry.json``.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import MISSING, asdict, dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from cbam_lightning.errors import UsageError, unknown_name
from cbam_lightning.weights.checkpoint import load_checkpoint
from cbam_lightning.weights.downloads import cache_folder, fetch, sha256_of

TABLE = Path(__file__).with_name("registry.json")


@dataclass(frozen=True)
class Entry:
    """A checkpoint that is known by name.

    Attributes:
        name: Letters, digits, ``_`` and ``-``.
        sha256: Of the file, 64 lower-case hexadecimal digits.
        num_bytes: Size of the file.
        licence: Of the values, as an SPDX identifier (https://spdx.org/licenses).
        dataset: What the network was trained on.
        command: What made the file.
        metrics: Measured figures as fractions, for example ``{"test/top1": 0.91}``.
        file: Name in the folder ``files`` beside the table; either this or ``url``.
        url: Where the file is downloaded from.

    Raises:
        UsageError: A value is not as described, or a text has control characters.
    """

    name: str
    sha256: str
    num_bytes: int
    licence: str
    dataset: str
    command: str
    metrics: dict[str, float] = field(default_factory=dict)
    file: str | None = None
    url: str | None = None

    def __post_init__(self) -> None:
        rules = {
            "name": _matches(r"[A-Za-z0-9_-]+", self.name),
            "sha256": _matches(r"[0-9a-f]{64}", self.sha256),
            "num_bytes": isinstance(self.num_bytes, int) and 0 < self.num_bytes < 1 << 63,
            "metrics": isinstance(self.metrics, dict)
            and all(_matches(".+", key) and _is_number(number) for key, number in self.metrics.items()),
            "file": self.file is None or _matches(r"[^/\\]+\.safetensors", self.file),
            "url": self.url is None or _matches(r"https?://[!-~]+", self.url),
            "file or url": (self.file is None) != (self.url is None),
            **{name: _matches(".*", getattr(self, name)) for name in ("licence", "dataset", "command")},
        }
        wrong = [name for name, fits in rules.items() if not fits]
        if wrong:
            given = ", ".join(f"{name} is {getattr(self, name, 'both or none')!r:.80}" for name in wrong)
            message = f"the registered checkpoint {self.name!r:.80} is not as Entry describes it: {given}."
            raise UsageError(message)

    def to_dict(self) -> dict[str, Any]:
        """Return the entry as an object of the table."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    def summary(self) -> str:
        """Return data set, figures, size in megabytes and licence in one line."""
        return f"{self.dataset}; {self._figures()}; {self.num_bytes / 1e6:.1f} MB; {self.licence}"

    def describe(self) -> str:
        """Return the entry for people, a line a field."""
        values = self.to_dict() | {"metrics": self._figures()}
        return "\n".join(f"{name:<18}{value}" for name, value in values.items())

    def _figures(self) -> str:
        return ", ".join(f"{name}={value:.4f}" for name, value in self.metrics.items()) or "not measured"


def _matches(pattern: str, value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and re.fullmatch(pattern, value) is not None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and 0 <= value <= sys.float_info.max


def _read_table() -> list[dict[str, Any]]:
    try:
        table = json.loads(TABLE.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        message = f"{TABLE} is no table of checkpoints ({error}); install the package again."
        raise UsageError(message) from None
    if not isinstance(table, list) or not all(isinstance(values, dict) for values in table):
        message = f"{TABLE} is no table of checkpoints: it should be a list of objects."
        raise UsageError(message)
    return table


def _entries() -> dict[str, Entry]:
    known = {f.name for f in fields(Entry)}
    required = {f.name for f in fields(Entry) if (f.default, f.default_factory) == (MISSING, MISSING)}
    entries: dict[str, Entry] = {}
    for values in _read_table():
        if unknown := sorted(set(values) - known):
            raise unknown_name(kind=f"field in {TABLE}", given=unknown[0], allowed=known)
        if missing := sorted(required - set(values)):
            message = f"{TABLE} has a checkpoint without {', '.join(missing)}."
            raise UsageError(message)
        entry = Entry(**values)
        if entry.name in entries:
            message = f"{TABLE} has two checkpoints named {entry.name}."
            raise UsageError(message)
        entries[entry.name] = entry
    return entries


def list_weights(pattern: str = "*") -> list[str]:
    """Return the names of the registered checkpoints, sorted.

    Args:
        pattern: Shell wildcards, for example ``resnet20_*``.
    """
    return sorted(name for name in _entries() if fnmatchcase(name, pattern))


def find(name: str) -> Entry:
    """Return the registered checkpoint of this name.

    Raises:
        UsageError: There is none.
    """
    entries = _entries()
    if name not in entries:
        message = (
            "no checkpoint is registered in this version; give the path of a .safetensors or .ckpt file."
        )
        raise unknown_name("registered checkpoint", name, entries) if entries else UsageError(message)
    return entries[name]


def checkpoint_path(name: str) -> Path:
    """Return the file of a registered checkpoint, downloaded if need be, with its hash checked.

    Raises:
        UsageError: There is no checkpoint of this name.
        OSError: It cannot be downloaded, or the file is not the registered one.
    """
    return verify(find(name))


def verify(entry: Entry) -> Path:
    """Check that the file of a registered checkpoint has the registered hash, and return its path.

    A file that is not here yet is downloaded; one in the cache with another hash is downloaded again.

    Raises:
        OSError: It cannot be downloaded, or the file is not the registered one.
    """
    if entry.url is not None:
        return fetch(entry.url, entry.sha256, cache_folder() / f"{entry.name}.safetensors")
    path = TABLE.parent / "files" / str(entry.file)
    found = sha256_of(path)
    if found != entry.sha256:
        message = f"{path} is damaged: its SHA-256 is {found}, not {entry.sha256}. Install the package again."
        raise OSError(message)
    return path


def make_entry(
    path: str | Path, *, licence: str, command: str, name: str | None = None, url: str | None = None
) -> Entry:
    """Describe a checkpoint for the table; data set and metrics are what its header says.

    Args:
        path: A ``.safetensors`` file of ours.
        licence: Of its values, as an SPDX identifier.
        command: What made it.
        name: What it shall be called; left out, it is the file's name.
        url: Where it will be downloaded from; left out, it lies in the folder ``files`` beside the table.

    Raises:
        UsageError: The file is no checkpoint of ours, or its header names no data set.
    """
    path = Path(path)
    header = load_checkpoint(path).header
    if header.dataset is None:
        message = f"{path} does not name its data set, which a registered checkpoint has to."
        raise UsageError(message)
    return Entry(
        name=name or path.stem,
        sha256=sha256_of(path),
        num_bytes=path.stat().st_size,
        licence=licence,
        dataset=header.dataset,
        command=command,
        metrics=dict(header.metrics),
        file=None if url else path.name,
        url=url,
    )
