"""The description of a registered checkpoint: one object of the table in ``registry.json``."""

from __future__ import annotations

import re
import sys
from dataclasses import asdict, dataclass, field
from typing import Any

from cbam_lightning.checks import is_finite, is_whole
from cbam_lightning.errors import UsageError

# Endings of files with weights. No registered name has one, so that a string is either a name or a path.
FILE_ENDINGS = (".safetensors", ".ckpt", ".pth", ".pt", ".bin", ".tar")

_NAME = r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)?"  # it becomes a file name in the cache


@dataclass(frozen=True)
class Entry:
    """A registered checkpoint.

    Attributes:
        name: ``<network>_<attention>.<dataset>``: letters, digits, ``_`` and ``-``, with at most one dot
            between them, and without the ending of a checkpoint file.
        sha256: Hash of the file, 64 lower-case hexadecimal digits.
        num_bytes: Size of the file.
        licence: Licence of the values, as an SPDX identifier (https://spdx.org/licenses).
        dataset: The data set that the network was trained on.
        command: The command that produced the file.
        metrics: Measured metrics as fractions, for example ``{"test/top1": 0.91}``.
        seeds: ``test/top1`` by seed of all runs from which the file was chosen: it is the median run, or the
            lower of two median runs. Empty if there was only one run.
        file: Name in the folder ``files`` next to the table; either this or ``url``.
        url: Address of the download.

    Raises:
        UsageError: A value is not as described, or a string has control characters.
    """

    name: str
    sha256: str
    num_bytes: int
    licence: str
    dataset: str
    command: str
    metrics: dict[str, float] = field(default_factory=dict)
    seeds: dict[str, float] = field(default_factory=dict)
    file: str | None = None
    url: str | None = None

    def __post_init__(self) -> None:
        rules = {
            "name": _matches(_NAME, self.name) and not self.name.lower().endswith(FILE_ENDINGS),
            "sha256": _matches(r"[0-9a-f]{64}", self.sha256),
            "num_bytes": is_whole(self.num_bytes) and 0 < self.num_bytes < 1 << 63,
            "metrics": _are_numbers(".+", self.metrics, sys.float_info.max),
            "seeds": _are_numbers("[0-9]+", self.seeds, 1),
            "file": self.file is None or _matches(r"[^/\\]+\.safetensors", self.file),
            "url": self.url is None or _matches(r"https?://[!-~]+", self.url),
            "file or url": (self.file is None) != (self.url is None),
            **{name: _matches(".*", getattr(self, name)) for name in ("licence", "dataset", "command")},
        }
        wrong = [name for name, fits in rules.items() if not fits]
        if wrong:
            values = ", ".join(f"{name} is {getattr(self, name, 'both or none')!r:.80}" for name in wrong)
            raise UsageError(f"the registered checkpoint {self.name!r:.80} has invalid fields: {values}.")

    def to_dict(self) -> dict[str, Any]:
        """Return the entry as an object of the table, without empty fields."""
        return {key: value for key, value in asdict(self).items() if value not in (None, {})}

    def summary(self) -> str:
        """Return the data set, accuracies, size in megabytes and licence in one line."""
        top1 = {name: value for name, value in self.metrics.items() if name.endswith("/top1")}
        size = f"{self.num_bytes / 1e6:.1f} MB"
        parts = (self.dataset, _metrics(top1), self.spread(), size, self.licence)
        return "; ".join(part for part in parts if part)

    def describe(self) -> str:
        """Return the entry as text, one line per field."""
        texts = {"metrics": _metrics(self.metrics), "seeds": self.spread()}
        values = self.to_dict() | {name: text for name, text in texts.items() if text}
        return "\n".join(f"{name:<18}{value}" for name, value in values.items())

    def spread(self) -> str:
        """Return median, lowest and highest accuracy over the seeds, or "" without seeds."""
        if not self.seeds:
            return ""
        values = sorted(self.seeds.values())
        median = values[(len(values) - 1) // 2]
        return f"median of {len(values)} seeds {median:.4f}, lowest {values[0]:.4f}, highest {values[-1]:.4f}"


def _matches(pattern: str, value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and re.fullmatch(pattern, value) is not None


def _are_numbers(pattern: str, values: Any, most: float) -> bool:
    return isinstance(values, dict) and all(
        _matches(pattern, name) and is_finite(number) and 0 <= number <= most
        for name, number in values.items()
    )


def _metrics(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name}={value:.4f}" for name, value in metrics.items()) or "not measured"
