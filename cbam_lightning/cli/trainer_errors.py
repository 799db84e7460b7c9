"""Whose fault an error is: the user's, with the option that names the failing part, or a defect of ours.

Every class that YAML or the command line names, such as a callback, a logger, a profiler or an optimiser, is
instantiated through ``Parts``, so that its errors can name the option.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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

from cbam_lightning.cli.config_classes import named_classes
from cbam_lightning.errors import RunStopped, UsageError
from cbam_lightning.user_code.tracebacks import describe_error, is_user_file, user_line

_OWN = str(Path(__file__).parent.parent)
_LIGHTNING = str(Path(pytorch_lightning.__file__).parent)
# Their text is a sentence; that of others, such as a KeyError, needs the name of the error.
_SPOKEN = (ImportError, ValueError, RuntimeError, MisconfigurationException)
# Errors that are explained already, failures of the machine, and requested ends.
_NO_MISTAKES = (UsageError, RunStopped, OSError, torch.OutOfMemoryError)


class Parts:
    """The objects that a configuration names by class, each with its option.

    Args:
        config: The parsed configuration of the sub-command.

    Attributes:
        failure: The error of the last object that could not be made.
    """

    def __init__(self, config: Any) -> None:
        self._places = dict(named_classes(config))
        self._made: list[tuple[Any, str]] = []
        self.failure: UsageError | None = None

    def watched(self, instantiator: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap an instantiator of jsonargparse so that its errors say which option names the class."""

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
        return next(places, "checkpoint")  # the one option group that is itself a class of Lightning

    def mistake(self, error: Exception, trainer: Trainer) -> UsageError | None:
        """Return an error that a method of one of the objects raised, with the option of that object.

        ``None`` if it came from elsewhere.
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
        # Lightning's class for mistakes of the user
        return UsageError(str(error)) if isinstance(error, MisconfigurationException) else None


def as_mistake(error: Exception) -> UsageError | None:
    """Return an error of the trainer about its options as the user's; ``None`` if it came from elsewhere."""
    inner = list(dropwhile(_is_own, _calls(error)))
    if not inner or not _file(inner[0]).startswith(_LIGHTNING):
        return None
    return None if isinstance(error, _NO_MISTAKES) or _is_ours(inner) else UsageError(_said(error))


def own_mistake(error: Exception) -> UsageError | None:
    """Return an error of user-defined code with its file and line; ``None`` if it came from elsewhere."""
    line = None if isinstance(error, _NO_MISTAKES) else user_line(error)
    return None if line is None else UsageError(f"{line}. --debug shows the whole traceback.")


def wrapped_usage_error(error: BaseException) -> UsageError | None:
    """Return the ``UsageError`` that jsonargparse wraps in an error about types when it makes a class."""
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, UsageError):
        inner = inner.__cause__ or inner.__context__
    return inner


def refuse_checkpoint_io(plugins: list[Any]) -> None:
    """Refuse plugins that write checkpoints: ``resume`` relies on the run's own.

    Raises:
        UsageError: Names the plugin.
    """
    for plugin in plugins:
        if isinstance(plugin, CheckpointIO):
            raise UsageError(
                f"--trainer.plugins {type(plugin).__name__}: a run writes its checkpoints itself, each "
                "completely or not at all, so that it can be resumed; leave the plugin out."
            )


def _is_ours(calls: list[TracebackType]) -> bool:
    """Return whether the innermost line outside the libraries is in this package."""
    return next((_is_own(call) for call in reversed(calls) if not _is_library(call)), False)


def _mistake(option: str, part: type, error: Exception) -> UsageError:
    return UsageError(f"--{option} {part.__name__}: {_said(error)}")


def _said(error: Exception) -> str:
    spoken = isinstance(error, _SPOKEN) and user_line(error) is None
    return str(error) if spoken else describe_error(error)


def _calls(error: BaseException) -> list[TracebackType]:
    """Return the calls in an error's traceback, from the one that catches it to the innermost."""
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


def _parts_of(trainer: Trainer) -> Iterator[tuple[Any, str]]:
    """Return objects that the trainer made of names, such as ``simple``, or that the model made for it."""
    yield trainer.strategy, "trainer.strategy"
    yield trainer.precision_plugin, "trainer.precision"
    yield trainer.profiler, "trainer.profiler"  # type: ignore[attr-defined]
    yield from ((logger, "trainer.logger") for logger in trainer.loggers)
    yield from ((optimizer, "model.optimizer") for optimizer in trainer.optimizers)
    yield from ((config.scheduler, "model.schedule") for config in trainer.lr_scheduler_configs)
