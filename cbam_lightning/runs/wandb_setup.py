"""The loggers of a run: a CSV file always, Weights & Biases unless it is switched off."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import wandb
from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from cbam_lightning.runs.directory import RunDirectory
from cbam_lightning.runs.metrics_file import MetricsFile
from cbam_lightning.runs.programs import program
from cbam_lightning.runs.wandb_journal import WandbJournal


@dataclass
class WandbOptions:
    """Weights & Biases.

    Args:
        enabled: Whether to track the run. Without an API key it is recorded offline.
        project: Name of the project.
        entity: User or team; default: that of the API key.
        group: Group that W&B shows together; default: the experiment.
        tags: Tags of the run.
        notes: Description of the run.
        log_model: Whether to upload the checkpoints when training ends (online only).
    """

    enabled: bool = True
    project: str = "cbam_lightning"
    entity: str | None = None
    group: str | None = None
    tags: list[str] | None = None
    notes: str | None = None
    log_model: bool = False


def is_offline() -> bool:
    """Return whether W&B records offline: as ``WANDB_MODE`` says, else if there is no API key."""
    mode = os.environ.get("WANDB_MODE")
    if mode:
        return mode in ("offline", "dryrun")
    return not wandb.login(prompt=False, verify=False)


def build_loggers(
    run: RunDirectory,
    experiment: str,
    options: WandbOptions,
    job_type: str | None,
    points: Mapping[str, int] | None = None,
) -> list[Logger]:
    """Return the loggers of a run.

    Args:
        run: Where to write.
        experiment: Name of the run in W&B.
        options: Options of W&B.
        job_type: The sub-command.
        points: Number of points of each logger, by class name, that the checkpoint of a resumed run knows
            of; later ones are removed.
    """
    keep = dict(points or {})
    metrics_file = MetricsFile(run.metrics, keep.get(MetricsFile.__name__, 0))
    if not options.enabled:
        return [metrics_file]
    offline = is_offline()
    # absolute, since wandb's service may have been started in another folder
    folder = str(run.path.absolute())
    # wandb writes its own service files to WANDB_DIR, whatever `save_dir` says
    os.environ["WANDB_DIR"] = folder
    _set_aside_recordings(run)
    journal = WandbJournal(
        run,
        keep.get(WandbJournal.__name__, 0),
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
        resume=None if offline else "allow",
        settings=wandb.Settings(silent=offline, console="off"),
    )
    # Lightning 2.6 always passes it, and wandb 0.31 warns about it
    journal._wandb_init.pop("anonymous", None)
    return [journal, metrics_file]


@rank_zero_only
def _set_aside_recordings(run: RunDirectory) -> None:
    """Leave one recording to upload: the new one repeats all points of those before."""
    wandb_folder = run.path / "wandb"
    for recording in wandb_folder.glob("offline-run-*"):
        target = wandb_folder / "superseded" / recording.name
        target.parent.mkdir(exist_ok=True)
        recording.rename(target)


def wandb_lines(loggers: list[Logger]) -> list[str]:
    """Return where the W&B run is, and the command that uploads it if it is offline."""
    lines = []
    for experiment in (logger.experiment for logger in loggers if isinstance(logger, WandbLogger)):
        folder = os.path.relpath(Path(experiment.dir).parent)
        upload = f"offline; upload it with: {program('wandb')} sync {shlex.quote(folder)}"
        lines.append(upload if experiment.offline else str(experiment.url))
    return lines


def finish_wandb(exit_code: int) -> None:
    """End the W&B run, if any, so that the next one in this process is a new run.

    Args:
        exit_code: Exit code that W&B shows: 0 for success.
    """
    if wandb.run is not None:
        wandb.finish(exit_code=exit_code)
