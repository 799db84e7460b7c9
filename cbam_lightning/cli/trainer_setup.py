"""What has to be done before Lightning's command: the user's own modules, and fewer words."""

from __future__ import annotations

import logging
import pydoc
import warnings
from argparse import Namespace
from collections.abc import Mapping
from types import BuiltinFunctionType, FunctionType
from typing import Any

from cbam_lightning.errors import UsageError


def refuse_functions(config: Any, key: str = "") -> None:
    """Refuse a configuration that names a function where a class has to stand.

    jsonargparse calls whatever is named as an optimizer or a schedule, and a configuration, or the checkpoint
    that fills it in, may come from a stranger.

    Args:
        config: Of a sub-command, nothing of it made yet.
        key: Where it stands in the whole.

    Raises:
        UsageError: Says where and what.
    """
    if isinstance(config, (Mapping, Namespace)):
        items = vars(config) if isinstance(config, Namespace) else config
        path = items.get("class_path")
        if isinstance(path, str) and not isinstance(pydoc.locate(path), type):
            message = f"--{key} is {path!r}, which is no class; only classes can be named."
            raise UsageError(message)
        for name, value in items.items():
            inner = key if name in ("init_args", "dict_kwargs") else f"{key}.{name}".strip(".")
            refuse_functions(value, inner)
    elif isinstance(config, (list, tuple)):
        for value in config:
            refuse_functions(value, key)
    elif isinstance(config, (FunctionType, BuiltinFunctionType)):
        message = f"--{key} is the function {config.__name__!r}; only classes can be named."
        raise UsageError(message)


def _is_worth_telling(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    return "Tip:" not in text and "TPU" not in text


def quieten() -> None:
    """Silence what tells the user nothing: advertisements, and warnings about our own deliberate choices."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(_is_worth_telling)
    for text in (
        ".*args parameter is intended to run from within Python.*",
        ".*Experiment logs directory.*exists and is not empty.*",  # config.yaml is there before metrics.csv
        ".*Checkpoint directory .* exists and is not empty.*",  # of a run that goes on
        ".*does not have many workers.*",  # images in memory are cut in the main process, a batch at a time
        ".*The dirpath has changed from.*",  # evaluating the checkpoint of another run is what one does
        ".*your dataloader is not resumable.*",  # ExactResume reads again what was trained on
        ".*LeafSpec.*is deprecated.*",
    ):
        warnings.filterwarnings("ignore", text)
