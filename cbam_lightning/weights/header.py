"""The header of a shared checkpoint: how to rebuild and use the network, and its provenance."""

from __future__ import annotations

import json
import reprlib
import shlex
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from cbam_lightning.checks import is_finite
from cbam_lightning.errors import UsageError

METADATA_KEY = "cbam_lightning"
FORMAT_VERSION = 1

# The limit for one field with all its lists and dictionaries: far more than any network's options need, and
# few enough that a small hostile file, which may repeat one list a million times, does not expand.
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
_LEAST = {"num_classes": 0, "in_channels": 1, "size_px": 1}
# An image of this side in float32 takes 3 GB; a larger one would be made only to fail.
_MAX_SIZE_PX = 1 << 14
_ITEMS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "class_names": ("names", lambda item: isinstance(item, str)),
    "mean": ("finite numbers", is_finite),
    "std": ("finite numbers above 0", lambda item: is_finite(item) and item > 0),
    # the loss of a run that diverged is NaN
    "metrics": ("numbers", lambda item: isinstance(item, (int, float)) and not isinstance(item, bool)),
}
_REQUIRED = ("network", "attention", "num_classes", "in_channels")


@dataclass(frozen=True)
class Header:
    """The description of a network and of the run that trained it.

    Attributes:
        network: Name for ``create_model``.
        attention: Name for ``create_attention``; ``"none"`` for a plain network.
        num_classes: Number of classes.
        in_channels: Number of channels of an input image.
        network_options: Further arguments of the network.
        attention_options: Arguments of every attention module.
        class_names: ``num_classes`` names in the order of the logits, if known.
        size_px: Height and width of the training images.
        mean: Mean per channel of pixel values in [0, 1], with which the input is normalised.
        std: Standard deviation per channel, likewise.
        dataset: Name of the training data set.
        metrics: Measured metrics as fractions, for example ``{"test/top1": 0.91}``.
        averaged: Whether the values are a moving average (EMA) over training.
        experiment: The configuration file of the run.
        seed: The seed of the run.
        version: The version of this package that wrote the file.
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
            values: The fields by name; unknown names are ignored, so that newer files can be opened.
            source: Name of the file in error messages.

        Raises:
            UsageError: A required field is missing, or a field has a wrong type or length or an impossible
                value.
        """
        missing = [name for name in _REQUIRED if values.get(name) is None]
        if missing:
            raise UsageError(
                f"{source} does not say its {', '.join(missing)}; cbam_lightning did not write it. "
                f"{import_advice(source)}"
            )
        known = {f.name for f in fields(cls)}
        options = {name: value for name, value in values.items() if name in known}
        optional = ("network_options", "attention_options", "metrics")
        options |= {name: {} for name in optional if options.get(name) is None}
        _check_types(options, source)
        _check_least(options, source)
        for name, length in (("class_names", "num_classes"), ("mean", "in_channels"), ("std", "in_channels")):
            if options.get(name) is not None:
                options[name] = tuple(options[name])
                _check_items(name, options[name], options[length], source)
        _check_items("metrics", options["metrics"].values(), len(options["metrics"]), source)
        return cls(**options)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str] | None, source: str) -> Header:
        """Read the header from the metadata of a safetensors file, which maps strings to strings.

        Raises:
            UsageError: There is no header of ours, or it is damaged.
        """
        if not metadata or METADATA_KEY not in metadata:
            raise UsageError(
                f"{source} has no cbam_lightning header, so its network is unknown. "
                f"`cbam-lightning weights export` writes files with a header. {import_advice(source)}"
            )
        try:
            values = json.loads(metadata[METADATA_KEY])
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{source} has a damaged header: {error}.") from None
        if not isinstance(values, dict) or values.get("format_version") != FORMAT_VERSION:
            raise UsageError(
                f"{source} has a header of another format; this version reads format {FORMAT_VERSION}."
            )
        return cls.from_dict(values, source)

    def to_metadata(self) -> dict[str, str]:
        """Return the header as metadata of a safetensors file."""
        values = {"format_version": FORMAT_VERSION, **asdict(self)}
        return {METADATA_KEY: json.dumps(values, sort_keys=True)}

    def describe(self) -> str:
        """Return the header as text, one line per field; long lists are shortened."""
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


def import_advice(source: str | Path) -> str:
    """Return how to make a file of ours of weights of other code."""
    command = f"cbam-lightning weights import {shlex.quote(str(source))} OUT.safetensors"
    return f"Convert weights of other code first: {command}."


def printable(text: str) -> str:
    """Replace control characters, since a terminal executes the escape sequences of untrusted text."""
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
            raise UsageError(f"{source} has a damaged header: {name} is {problem}.")


def _check_least(values: Mapping[str, Any], source: str) -> None:
    for name, least in _LEAST.items():
        if values.get(name) is not None and values[name] < least:
            raise UsageError(f"{source} has a damaged header: {name} is {values[name]}, less than {least}.")
    if (values.get("size_px") or 0) > _MAX_SIZE_PX:
        raise UsageError(
            f"{source} has a damaged header: size_px is {values['size_px']}, more than {_MAX_SIZE_PX}."
        )


def _is_plain(value: Any) -> bool:
    """Return whether a short JSON text can hold a value."""
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
    what, fits = _ITEMS[name]
    if len(items) != length or not all(map(fits, items)):
        given = printable(reprlib.repr([*items]))
        raise UsageError(f"{source} has a damaged header: {name} should hold {length} {what}, not {given}.")
