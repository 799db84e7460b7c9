"""Options of the model that the command fills in from the data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pytorch_lightning import LightningDataModule, LightningModule
from pytorch_lightning.cli import LightningArgumentParser

from cbam_lightning.errors import UsageError

_SAME_NAME = ("num_classes", "in_channels", "class_names", "size_px", "mean", "std")
# From an attribute of the data to an option of the model.
_LINKS = {**{name: name for name in _SAME_NAME}, "dataset_name": "dataset"}


def link(parser: LightningArgumentParser, model_options: Callable[[], Mapping[str, Any]]) -> None:
    """Let the data module decide the options that it knows, once it is made.

    The link is from the whole data module: if it lacked the attribute that a link names, jsonargparse would
    print the module, for which Lightning reads all the data.

    Args:
        parser: The parser of a sub-command.
        model_options: Returns the parsed options of the model, which apply where the data say nothing.
    """

    def value_of(source: str, target: str, data: LightningDataModule | None) -> Any:
        return getattr(data, source) if hasattr(data, source) else model_options().get(target)

    for source, target in _LINKS.items():
        target_key = f"model.init_args.{target}"
        compute = partial(value_of, source, target)
        parser.link_arguments("data", target_key, compute_fn=compute, apply_on="instantiate")


def unlinked(data: LightningDataModule | None) -> set[str]:
    """Return the options of the model that our data would decide, and these data do not."""
    return {target for source, target in _LINKS.items() if not hasattr(data, source)}


def require_from_data(
    model: LightningModule, data: LightningDataModule | None, given: Mapping[str, Any]
) -> None:
    """Refuse to guess what a task requires of its data, such as the number of classes.

    Args:
        model: The model; the names are its ``required_from_data``.
        data: The data; a plain data module need not have the attributes.
        given: Options of the command line and its configuration files, by dotted name.

    Raises:
        UsageError: Neither the data nor the user gives one of the values.
    """
    if data is None or "ckpt_path" in given:  # a checkpoint has all values
        return
    for name in getattr(model, "required_from_data", ()):
        if not hasattr(data, name) and f"model.{name}" not in given:
            raise UsageError(
                f"{type(data).__name__} has no attribute {name}, so the network cannot be made for it; give "
                f"--model.{name}, or set it in the data module's __init__."
            )


def refuse_other_values(
    model_options: Mapping[str, Any], data: LightningDataModule | None, given: Mapping[str, Any]
) -> None:
    """Refuse options of the model that the data decide otherwise: they would be ignored.

    Args:
        model_options: Parsed options of the model.
        data: The data.
        given: Options of the command line and its configuration files, by dotted name.

    Raises:
        UsageError: Names the option and both values.
    """
    for source, target in _LINKS.items():
        if f"model.{target}" in given and hasattr(data, source):
            typed, known = model_options.get(target), getattr(data, source)
            if _listed(typed) != _listed(known):
                raise UsageError(
                    f"--model.{target} is {typed}, and {type(data).__name__} has {known}, which counts; "
                    f"leave --model.{target} out, or change the data."
                )


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value
