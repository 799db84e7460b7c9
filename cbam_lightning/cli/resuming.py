"""The command ``resume``, and what a run goes on from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cbam_lightning.cli.own_code import options_with_values
from cbam_lightning.errors import UsageError
from cbam_lightning.runs.directory import RunDirectory
from cbam_lightning.runs.run_files import read_config


def resume_run(args: Sequence[str]) -> None:
    """Run ``resume``: ``fit`` in the directory of a run, from its last checkpoint.

    Args:
        args: The directory, and options of ``fit`` to change.

    Raises:
        UsageError: The directory is not a run, or as ``run_trainer``.
    """
    if not args or args[0].startswith("-"):
        message = "usage: cbam-lightning resume RUN_DIR [options of fit, such as --trainer.max_epochs 20]"
        if args and args[0] in ("-h", "--help"):
            print(message)
            return
        raise UsageError(message)
    run = RunDirectory.open(args[0])
    if any(option == "--ckpt_path" for option, _ in options_with_values(args[1:])):
        raise UsageError(
            f"resume continues from {run.last}; to start a new run from another checkpoint: fit --config "
            f"{run.config} --ckpt_path PATH --run.name NAME."
        )
    run.announce()
    from cbam_lightning.cli.trainer import run_trainer

    run_trainer(["fit", "--config", str(run.config), *args[1:]], run)


def refuse_other_start(run: RunDirectory, ckpt_path: str | None) -> None:
    """Refuse a checkpoint that a run, which goes on from its own, did not start from.

    The same command may start a run from a checkpoint and resume it.

    Args:
        run: Has a checkpoint of its own.
        ckpt_path: What ``fit`` was given.

    Raises:
        UsageError: It is another checkpoint.
    """
    if ckpt_path in (None, "last", read_config(run).get("ckpt_path")) or Path(str(ckpt_path)) == run.last:
        return
    raise UsageError(
        f"there is a run {run.path}, which continues from its own {run.last}, not from {ckpt_path}. To start "
        "a new run from that, give it another name with --run.name; to continue, leave out --ckpt_path."
    )
