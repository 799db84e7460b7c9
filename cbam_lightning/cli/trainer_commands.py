"""The commands that train: Lightning's own, and ``resume``; their errors are those of the whole command."""

from __future__ import annotations

from collections.abc import Sequence

import wandb

from cbam_lightning.cli.trainer import TrainerCLI
from cbam_lightning.cli.trainer_setup import quieten
from cbam_lightning.errors import UsageError
from cbam_lightning.runs.directory import RunDirectory


def resume_run(args: Sequence[str]) -> None:
    """Run ``resume``: ``fit`` once more, in the directory of a run and from its last checkpoint.

    Args:
        args: The directory, and options of ``fit`` to change.

    Raises:
        UsageError: The directory is none of a run, or what ``run_trainer`` raises.
    """
    if not args or args[0].startswith("-"):
        message = "usage: cbam-lightning resume RUN_DIR [options of fit, such as --trainer.max_epochs 20]"
        if args and args[0] in ("-h", "--help"):
            print(message)
            return
        raise UsageError(message)
    run = RunDirectory.open(args[0])
    run.announce()
    run_trainer(["fit", "--config", str(run.config), *args[1:]], run)


def run_trainer(args: Sequence[str], resumed: RunDirectory | None = None) -> None:
    """Run ``fit``, ``validate``, ``test`` or ``predict``.

    Args:
        args: The command line without the program's name.
        resumed: The run to go on with, if it is none of its own.

    Raises:
        RunStopped: The training ended early, and said why.
        UsageError: Something that the user gave is wrong.
        OSError: The machine failed: the disk is full, a download broke off, and the like.
    """
    quieten()
    try:
        TrainerCLI(args, resumed)
    except wandb.Error as error:
        message = f"W&B: {error}. Set WANDB_MODE=offline to record the run here and upload it later."
        raise ConnectionError(message) from None
    except ValueError as error:
        behind = _user_error_behind(error)
        if behind is None:
            raise
        raise behind  # noqa: B904 - its own cause stays, for --debug


def _user_error_behind(error: BaseException) -> UsageError | None:
    """Find the mistake that jsonargparse wraps in an error about types when a class cannot be made."""
    behind: BaseException | None = error
    while behind is not None and not isinstance(behind, UsageError):
        behind = behind.__cause__ or behind.__context__
    return behind
