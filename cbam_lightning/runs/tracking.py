"""Where metrics go: a CSV file always, Weights & Biases unless it is switched off."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

import wandb
from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger

from cbam_lightning.runs.directory import RunDirectory
from cbam_lightning.runs.programs import program


@dataclass
class WandbOptions:
    """Weights & Biases.

    Args:
        enabled: Whether to track the run there. Without an API key it is recorded offline.
        project: Name of the project.
        entity: User or team; left out, the key's own.
        group: Runs of one group are shown together; left out, it is the experiment.
        tags: Words to find the run by.
        notes: A text about the run.
        log_model: Whether to upload the checkpoints when training has ended (online only).
    """

    enabled: bool = True
    project: str = "cbam_lightning"
    entity: str | None = None
    group: str | None = None
    tags: list[str] | None = None
    notes: str | None = None
    log_model: bool = False


def is_offline() -> bool:
    """Say whether W&B has to record offline: ``WANDB_MODE`` decides, else whether there is a key."""
    mode = os.environ.get("WANDB_MODE")
    if mode:
        return mode in ("offline", "dryrun")
    return not wandb.login(prompt=False, verify=False)


def build_loggers(run: RunDirectory, experiment: str, options: WandbOptions, job_type: str) -> list[Logger]:
    """Return the loggers of a run.

    Args:
        run: Everything is written inside it.
        experiment: Name shown in W&B.
        options: How to use W&B.
        job_type: The sub-command.
    """
    loggers: list[Logger] = []
    if options.enabled:
        offline = is_offline()
        # absolute, since wandb's service may have been started in another folder
        folder = str(run.path.absolute())
        # wandb writes its own service files to WANDB_DIR, whatever `save_dir` says
        os.environ["WANDB_DIR"] = folder
        logger = WandbLogger(
            name=experiment,
            save_dir=folder,
            id=run.id,
            project=options.project,
            entity=options.entity,
            group=options.group or experiment,
            tags=options.tags,
            notes=options.notes,
            job_type=job_type,
            log_model=options.log_model and not offline,
            mode="offline" if offline else None,
            settings=wandb.Settings(silent=offline, console="off"),
        )
        # Lightning 2.6 always passes it, and wandb 0.31 warns about it
        logger._wandb_init.pop("anonymous", None)
        loggers.append(logger)
    # an empty name and version put metrics.csv straight into the directory
    loggers.append(CSVLogger(save_dir=run.path, name="", version=""))
    return loggers


def wandb_lines(loggers: list[Logger]) -> list[str]:
    """Return where the W&B run is, and how to upload it if it is offline."""
    lines = []
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            experiment = logger.experiment
            if experiment.offline:
                folder = os.path.relpath(Path(experiment.dir).parent)
                lines.append(f"offline; upload it with: {program('wandb')} sync {shlex.quote(folder)}")
            else:
                lines.append(str(experiment.url))
    return lines


def finish_wandb(exit_code: int) -> None:
    """End the W&B run if there is one, so that another one in this process is a run of its own.

    Args:
        exit_code: What W&B shows of the run: 0 for success.
    """
    if wandb.run is not None:
        wandb.finish(exit_code=exit_code)
