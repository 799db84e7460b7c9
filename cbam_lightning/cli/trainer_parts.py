"""Whose fault an error is: that of a part which the configuration names, or a defect of ours.

What is named in YAML or on the command line, such as a callback, a logger, a profiler or an optimiser, is
built here, so that its errors can say which option it stands for.
"""

from __future__ import annotations

import pydoc
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from itertools import dropwhile
from pathlib import Path
from types import TracebackType
from typing import Any

import pytorch_lightning
import torch
from lightning_fabric.plugins import CheckpointIO
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import LightningDataModule, LightningModule, Trainer

from cbam_lightning.errors import RunStopped, UsageError
from cbam_lightning.user_code.tracebacks import describe_error, is_user_file, user_line

_OWN = str(Path(__file__).parent.parent)
_LIGHTNING = str(Path(pytorch_lightning.__file__).parent)
# Their text is a sentence for people; that of others, such as a KeyError, needs their name.
_SPOKEN = (ImportError, ValueError, RuntimeError, MisconfigurationException)
# A failure of the machine, or an end that was asked for.
_NO_MISTAKES = (UsageError, RunStopped, OSError, torch.OutOfMemoryError)


class Parts:
    """What a configuration names by class, each with its option.

    Args:
        config: Of the sub-command, nothing of it made yet.

    Attributes:
        failure: Why the last part that could not be made could not.
    """

    def __init__(self, config: Any) -> None:
        self._places = dict(_classes(config))
        self._made: list[tuple[Any, str]] = []
        self.failure: UsageError | None = None

    def watched(self, instantiator: Callable[..., Any]) -> Callable[..., Any]:
        """Return an instantiator of jsonargparse whose errors say which option names the class."""

        @wraps(instantiator)
        def make(class_type: type, *args: Any, **kwargs: Any) -> Any:
            try:
                made = instantiator(class_type, *args, **kwargs)
            except _NO_MISTAKES:
                raise
            except Exception as error:
                if class_type.__module__.startswith("cbam_lightning.") or _is_ours(_calls(error)[1:]):
                    raise
                self.failure = _mistake(self._option(class_type), class_type, error)
                raise self.failure from error
            self._made.append((made, self._option(class_type)))
            return made

        return make

    def _option(self, class_type: type) -> str:
        places = (option for option, known in self._places.items() if known is class_type)
        return next(places, "checkpoint")  # the one group that is a class of Lightning's by itself

    def mistake(self, error: Exception, trainer: Trainer) -> UsageError | None:
        """Return the error as that of the part of a library whose method raised it.

        ``None`` if it is no part's.
        """
        if isinstance(error, _NO_MISTAKES):
            return None
        known = {id(part): (option, type(part)) for part, option in [*self._made, *_parts_of(trainer)]}
        for call in reversed(_calls(error)):
            owner = call.tb_frame.f_locals.get("self")
            if not _is_library(call) or isinstance(owner, (LightningModule, LightningDataModule)):
                break
            if id(owner) in known:
                return _mistake(*known[id(owner)], error)
        # Lightning's own word for a mistake of the user
        return UsageError(str(error)) if isinstance(error, MisconfigurationException) else None


def as_mistake(error: Exception) -> UsageError | None:
    """Return an error about the trainer's options as the user's; ``None`` if it was not the trainer's."""
    inner = list(dropwhile(_is_own, _calls(error)))
    if not inner or not _file(inner[0]).startswith(_LIGHTNING):
        return None
    return None if isinstance(error, _NO_MISTAKES) or _is_ours(inner) else UsageError(_said(error))


def own_mistake(error: Exception) -> UsageError | None:
    """Return an error of the user's own code with its file and line; ``None`` if none of it took part."""
    line = None if isinstance(error, _NO_MISTAKES) else user_line(error)
    return None if line is None else UsageError(f"{line}. --debug shows the whole traceback.")


def refuse_checkpoint_io(plugins: list[Any]) -> None:
    """Refuse another way to write checkpoints than the run's own, which ``resume`` relies on.

    Raises:
        UsageError: Names the plugin.
    """
    for plugin in plugins:
        if isinstance(plugin, CheckpointIO):
            message = (
                f"--trainer.plugins {type(plugin).__name__}: a run writes its checkpoints in its own way, "
                "each whole or not at all, so that it can be resumed; leave the plugin out."
            )
            raise UsageError(message)


def _is_ours(calls: list[TracebackType]) -> bool:
    """Say whether the innermost line outside the libraries is one of this package."""
    return next((_is_own(call) for call in reversed(calls) if not _is_library(call)), False)


def _mistake(option: str, part: type, error: Exception) -> UsageError:
    return UsageError(f"--{option} {part.__name__}: {_said(error)}")


def _said(error: Exception) -> str:
    spoken = isinstance(error, _SPOKEN) and user_line(error) is None
    return str(error) if spoken else describe_error(error)


def _calls(error: BaseException) -> list[TracebackType]:
    """Return the calls that an error ended, from the one that catches it to the innermost."""
    calls, call = [], error.__traceback__
    while call is not None:
        calls.append(call)
        call = call.tb_next
    return calls


def _file(call: TracebackType) -> str:
    return call.tb_frame.f_code.co_filename


def _is_own(call: TracebackType) -> bool:
    return _file(call).startswith(_OWN)


def _is_library(call: TracebackType) -> bool:
    return not _is_own(call) and not is_user_file(_file(call))


def _classes(config: Any, option: str = "") -> Iterator[tuple[str, type]]:
    """Find the classes that a configuration names, each with the option as one types it."""
    if isinstance(config, (Mapping, Namespace)):
        items = vars(config) if isinstance(config, Namespace) else config
        found = pydoc.locate(path) if isinstance(path := items.get("class_path"), str) else None
        if isinstance(found, type):
            yield option, found
        for name, value in items.items():
            inner = option if name in ("init_args", "dict_kwargs") else f"{option}.{name}".strip(".")
            yield from _classes(value, inner)
    elif isinstance(config, (list, tuple)):
        for value in config:
            yield from _classes(value, option)


def _parts_of(trainer: Trainer) -> Iterator[tuple[Any, str]]:
    """Return what the trainer made of names, such as ``simple``, and what the model made for it."""
    yield trainer.strategy, "trainer.strategy"
    yield trainer.precision_plugin, "trainer.precision"
    yield trainer.profiler, "trainer.profiler"  # type: ignore[attr-defined]
    yield from ((logger, "trainer.logger") for logger in trainer.loggers)
    yield from ((optimizer, "model.optimizer") for optimizer in trainer.optimizers)
    yield from ((config.scheduler, "model.schedule") for config in trainer.lr_scheduler_configs)
