"""The header of a shared checkpoint: how to rebuild and use the network, and where it comes from."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from cbam_lightning.errors import UsageError

METADATA_KEY = "cbam_lightning"
FORMAT_VERSION = 1

# Of one field, in all its lists and dictionaries: far more than any network's options, and less than what
# makes a hostile file's few bytes, which may mean one list a million times, long to write.
_MAX_ITEMS = 500
_MAX_INTEGER = 1 << 63

_Rule = tuple[type, ...]
_RULES: dict[str, _Rule] = {
    "network": (str,),
    "network_options": (dict,),
    "attention": (str,),
    "attention_options": (dict,),
    "num_classes": (int,),
    "class_names": (list, tuple, type(None)),
    "in_channels": (int,),
    "size_px": (int, type(None)),
    "mean": (list, tuple, type(None)),
    "std": (list, tuple, type(None)),
    "dataset": (str, type(None)),
    "metrics": (dict,),
    "averaged": (bool,),
    "experiment": (str, type(None)),
    "seed": (int, type(None)),
    "version": (str, type(None)),
}
_REQUIRED = ("network", "attention", "num_classes", "in_channels")


@dataclass(frozen=True)
class Header:
    """What a checkpoint says of itself.

    Attributes:
        network: Name for ``create_model``.
        attention: Name for ``create_attention``; ``"none"`` for the plain network.
        num_classes: Width of the classifier.
        in_channels: Channels of an input image.
        network_options: Further keyword arguments of the network.
        attention_options: Keyword arguments of every attention module.
        class_names: ``num_classes`` names in the order of the logits, if known.
        size_px: Height and width of the images it was trained on.
        mean: Per channel, of pixel values in [0, 1]; what the input is normalised with.
        std: As ``mean``.
        dataset: Name of the data set it was trained on.
        metrics: Measured figures, for example ``{"test/top1": 0.91}``, as fractions.
        averaged: Whether the values are the moving average of training (EMA) or the raw ones.
        experiment: The file that the run was started from.
        seed: The seed of the run.
        version: Version of this package that wrote the file.
    """

    network: str
    attention: str
    num_classes: int
    in_channels: int
    network_options: dict[str, Any] = field(default_factory=dict)
    attention_options: dict[str, Any] = field(default_factory=dict)
    class_names: tuple[str, ...] | None = None
    size_px: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    dataset: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    averaged: bool = False
    experiment: str | None = None
    seed: int | None = None
    version: str | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str) -> Header:
        """Build a header from plain values, which may come from a hostile file.

        Args:
            values: Names and values of the fields; unknown names are ignored, so that newer files open.
            source: What to call the origin in an error.

        Raises:
            UsageError: A required field is missing, or a field has a wrong type or length.
        """
        missing = [name for name in _REQUIRED if values.get(name) is None]
        if missing:
            message = f"{source} does not say its {', '.join(missing)}; it was not written by cbam_lightning."
            raise UsageError(message)
        known = {f.name for f in fields(cls)}
        given = {name: value for name, value in values.items() if name in known}
        optional = ("network_options", "attention_options", "metrics")
        given |= {name: {} for name in optional if given.get(name) is None}
        _check_types(given, source)
        for name, length in (("class_names", "num_classes"), ("mean", "in_channels"), ("std", "in_channels")):
            if given.get(name) is not None:
                given[name] = tuple(given[name])
                _check_items(name, given[name], given[length], source)
        _check_items("metrics", given["metrics"].values(), len(given["metrics"]), source)
        return cls(**given)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str] | None, source: str) -> Header:
        """Read the header from the string-to-string metadata of a safetensors file.

        Raises:
            UsageError: The file has no header of ours, or one that cannot be read.
        """
        if not metadata or METADATA_KEY not in metadata:
            message = (
                f"{source} has no cbam_lightning header, so it does not say which network it belongs to. "
                "Write such files with `cbam-lightning weights export`."
            )
            raise UsageError(message)
        try:
            values = json.loads(metadata[METADATA_KEY])
        except (ValueError, RecursionError) as error:
            message = f"{source} has a damaged header: {error}."
            raise UsageError(message) from None
        if not isinstance(values, dict) or values.get("format_version") != FORMAT_VERSION:
            message = f"{source} has a header of another format; this version reads format {FORMAT_VERSION}."
            raise UsageError(message)
        return cls.from_dict(values, source)

    def to_metadata(self) -> dict[str, str]:
        """Return the header as the metadata of a safetensors file (strings only)."""
        values = {"format_version": FORMAT_VERSION, **asdict(self)}
        return {METADATA_KEY: json.dumps(values, sort_keys=True)}

    def describe(self) -> str:
        """Return the header for people, a line a field; long lists are cut, control characters replaced."""
        lines = []
        for name, value in asdict(self).items():
            if value is None or value == {}:
                continue
            text = ", ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
            if isinstance(value, tuple):
                shown = ", ".join(str(v) for v in value[:10])
                text = shown + (f", … ({len(value)} in all)" if len(value) > 10 else "")
            lines.append(f"{name:<18}{printable(text)}")
        return "\n".join(lines)


def printable(text: str) -> str:
    """Replace control characters: the text may come from anyone, and a terminal obeys escape sequences."""
    return "".join(c if c.isprintable() else "?" for c in text)


def one_line(error: BaseException) -> str:
    """Return the text of an error as one printable line of at most 300 characters, without a full stop."""
    return printable(" ".join(str(error).split())).rstrip(".")[:300] or type(error).__name__


def _check_types(values: Mapping[str, Any], source: str) -> None:
    for name, value in values.items():
        problem = None
        if not isinstance(value, _RULES[name]) or (isinstance(value, bool) and bool not in _RULES[name]):
            problem = f"of type {type(value).__name__}"
        elif isinstance(value, (dict, int)) and not _is_plain(value):
            problem = "more than a few plain values"
        if problem:
            message = f"{source} has a damaged header: {name} is {problem}."
            raise UsageError(message)


def _is_plain(value: Any) -> bool:
    """Tell whether a short JSON text can hold a value."""
    waiting, count = [value], 0
    while waiting and count <= _MAX_ITEMS:
        item = waiting.pop()
        count += 1
        if isinstance(item, dict):
            waiting += item.values()
            if not all(isinstance(key, str) for key in item):
                return False
        elif isinstance(item, (list, tuple)):
            waiting += item
        elif isinstance(item, int):
            if abs(item) >= _MAX_INTEGER:
                return False
        elif not isinstance(item, (str, float, type(None))):
            return False
    return not waiting


def _check_items(name: str, items: Collection[Any], length: int, source: str) -> None:
    kind = str if name == "class_names" else (int, float)
    fits = all(isinstance(item, kind) and not isinstance(item, bool) for item in items)
    if len(items) != length or not fits:
        what = "names" if kind is str else "numbers"
        message = f"{source} has a damaged header: {name} should hold {length} {what}."
        raise UsageError(message)
