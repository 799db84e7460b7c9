"""What a model learns of its data: the options that the command fills in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from pytorch_lightning import LightningDataModule, LightningModule
from pytorch_lightning.cli import LightningArgumentParser

from cbam_lightning.errors import UsageError
from cbam_lightning.runs.settings import flatten
from cbam_lightning.tasks.base import ImageTask

# From an attribute of the data to an option of the model. `dataset_name` and `dataset` are one thing, named
# from two sides.
_LINKS = {
    "num_classes": "num_classes",
    "in_channels": "in_channels",
    "class_names": "class_names",
    "size_px": "size_px",
    "mean": "mean",
    "std": "std",
    "dataset_name": "dataset",
}
# What a network cannot be built without, and a plain data module may not say.
_STATED = ("num_classes", "in_channels")


def link(parser: LightningArgumentParser, model_options: Callable[[], Mapping[str, Any]]) -> None:
    """Let the data decide the options that they know, once they are made.

    The link is from the whole data module: for an attribute that it lacks, jsonargparse would print the
    module, and Lightning reads all the data for that.

    Args:
        parser: Of a sub-command.
        model_options: Returns those that were typed, or are defaults.
    """

    def told(source: str, target: str, data: LightningDataModule | None) -> Any:
        return getattr(data, source) if hasattr(data, source) else model_options().get(target)

    for source, target in _LINKS.items():
        target_key = f"model.init_args.{target}"
        compute = partial(told, source, target)
        parser.link_arguments("data", target_key, compute_fn=compute, apply_on="instantiate")


def untold(data: LightningDataModule | None) -> set[str]:
    """Return the options of the model that data of ours would decide, and these data do not."""
    return {target for source, target in _LINKS.items() if not hasattr(data, source)}


def require_stated(model: LightningModule, data: LightningDataModule | None, args: Sequence[str]) -> None:
    """Refuse to guess how many classes and channels there are.

    Args:
        model: Of the run.
        data: A plain data module need not say it.
        args: The command line, in which it may be typed, or stand in a configuration.

    Raises:
        UsageError: A task of ours has been told by neither.
    """
    if not isinstance(model, ImageTask) or data is None:
        return
    missing = [name for name in _STATED if not hasattr(data, name)]
    typed = _typed(args) if missing else set()
    if untold := [name for name in missing if f"model.{name}" not in typed]:
        message = (
            f"{type(data).__name__} has no attribute {untold[0]}, so the network cannot be made for it; give "
            f"--model.{untold[0]}, or set it in the data module's __init__."
        )
        raise UsageError(message)


def _typed(args: Sequence[str]) -> set[str]:
    """Return every option that was typed, or stands in a configuration file or in a checkpoint."""
    options = {word.removeprefix("--").partition("=")[0] for word in args if word.startswith("--")}
    for option, path in pairwise(args):
        if option in ("-c", "--config"):
            options |= flatten(yaml.safe_load(Path(path).read_text()) or {}).keys()
    if "ckpt_path" in options:  # it says the rest
        options |= {f"model.{name}" for name in _STATED}
    return options
