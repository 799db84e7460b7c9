"""Whose fault an error is: the user's, with the option that names the failing part, or a defect of ours.

Every class that YAML or the command line names, such as a callback, a logger, a profiler or an optimiser, is
instantiated through ``Parts``, so that its errors can name the option.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from itertools import dropwhile
from pathlib import Path
from traceback import walk_tb
from types import FrameType
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
# https://github.com/pytorch/pytorch/blob/v2.11.0/torch/nn/functional.py, _verify_batch_size
_ONE_VALUE = "Expected more than 1 value per channel when training"
# Mistakes that are explained already, failures of the machine, and requested ends.
EXPLAINED = (UsageError, RunStopped, OSError, torch.OutOfMemoryError)


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
            except EXPLAINED:
                raise
            except Exception as error:
                if class_type.__module__.startswith("cbam_lightning.") or _is_ours(_frames(error)[1:]):
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
        if isinstance(error, EXPLAINED):
            return None
        known = {id(part): (option, type(part)) for part, option in [*self._made, *_parts_of(trainer)]}
        for frame in reversed(_frames(error)):
            owner = frame.f_locals.get("self")
            if not _is_library(frame) or isinstance(owner, (LightningModule, LightningDataModule)):
                break
            if id(owner) in known:
                return _mistake(*known[id(owner)], error)
        if isinstance(error, ValueError) and str(error).startswith(_ONE_VALUE):
            return UsageError(
                "a normalisation layer has one value per channel to average, of one image with one position: "
                "give batches of 2 or more images, --data.batch_size, or larger images, --data.size_px."
            )
        # Lightning's class for mistakes of the user, and what it itself refuses
        refused = isinstance(error, ValueError) and _frames(error)[-1].f_code.co_filename.startswith(
            _LIGHTNING
        )
        return UsageError(str(error)) if refused or isinstance(error, MisconfigurationException) else None


def as_mistake(error: Exception) -> UsageError | None:
    """Return an error of the trainer about its options as the user's; ``None`` if it came from elsewhere."""
    inner = list(dropwhile(_is_own, _frames(error)))
    of_lightning = bool(inner) and inner[0].f_code.co_filename.startswith(_LIGHTNING)
    if not of_lightning or isinstance(error, EXPLAINED) or _is_ours(inner):
        return None
    return UsageError(_said(error))


def own_mistake(error: Exception) -> UsageError | None:
    """Return an error of user-defined code with its file and line; ``None`` if it came from elsewhere."""
    line = None if isinstance(error, EXPLAINED) else user_line(error)
    return None if line is None else UsageError(f"{line}. --debug shows the whole traceback.")


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


def _is_ours(frames: list[FrameType]) -> bool:
    """Return whether the innermost line outside the libraries is in this package."""
    return next((_is_own(frame) for frame in reversed(frames) if not _is_library(frame)), False)


def _mistake(option: str, part: type, error: Exception) -> UsageError:
    return UsageError(f"--{option} {part.__name__}: {_said(error)}")


def _said(error: Exception) -> str:
    spoken = isinstance(error, _SPOKEN) and user_line(error) is None
    return str(error) if spoken else describe_error(error)


def _frames(error: BaseException) -> list[FrameType]:
    """Return the calls in an error's traceback, from the one that catches it to the innermost."""
    return [frame for frame, _ in walk_tb(error.__traceback__)]


def _is_own(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(_OWN)


def _is_library(frame: FrameType) -> bool:
    return not _is_own(frame) and not is_user_file(frame.f_code.co_filename)


def _parts_of(trainer: Trainer) -> Iterator[tuple[Any, str]]:
    """Return objects that the trainer made of names, such as ``simple``, or that the model made for it."""
    yield trainer.strategy, "trainer.strategy"
    yield trainer.precision_plugin, "trainer.precision"
    yield trainer.profiler, "trainer.profiler"  # type: ignore[attr-defined]
    yield from ((logger, "trainer.logger") for logger in trainer.loggers)
    yield from ((optimizer, "model.optimizer") for optimizer in trainer.optimizers)
    yield from ((config.scheduler, "model.schedule") for config in trainer.lr_scheduler_configs)
