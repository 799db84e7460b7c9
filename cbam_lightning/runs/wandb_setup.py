"""The loggers of a run: a CSV file always, Weights & Biases unless it is switched off."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import wandb
from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only
from wandb.sdk.lib.module import unset_globals

from cbam_lightning.errors import UsageError
from cbam_lightning.files import atomic_write
from cbam_lightning.runs.directory import RunDirectory
from cbam_lightning.runs.metrics_file import MetricsFile
from cbam_lightning.runs.programs import program
from cbam_lightning.runs.wandb_environment import check_settings, find_homes, is_offline, surrounding_settings
from cbam_lightning.runs.wandb_journal import WandbJournal, tell_lost

# What W&B calls the options in its settings, and what they are without a word of the user.
_FIELDS = {
    "project": "project",
    "entity": "entity",
    "name": "run_name",
    "group": "run_group",
    "tags": "run_tags",
    "notes": "run_notes",
}
_PROJECT = "cbam_lightning"
# Most characters that the server takes; it tells only when it gets them, which may be after the training.
# https://github.com/wandb/wandb/issues/4208, https://github.com/NVIDIA-NeMo/Skills/pull/859
_LONGEST = {"name": 128, "group": 128}
_LONGEST_TAG = 64
# Seconds until a server that accepts connections but does not answer is given up (W&B's own: 90)
_INIT_TIMEOUT_S = 20


@dataclass
class WandbOptions:
    """Weights & Biases. What is not given comes from W&B's variables or settings files; ``resume`` keeps it.

    Args:
        enabled: Whether to track the run. Without an API key it is recorded offline.
        project: Name of the project; default: ``WANDB_PROJECT``, or ``cbam_lightning``.
        entity: User or team; default: ``WANDB_ENTITY``, or that of the API key.
        name: Name that W&B shows; default: ``WANDB_NAME``, or the experiment.
        group: Group that W&B shows together; default: ``WANDB_RUN_GROUP``, or the experiment.
        tags: Tags of the run; default: ``WANDB_TAGS``.
        notes: Description of the run; default: ``WANDB_NOTES``.
        log_model: Whether to upload the checkpoints when training ends (online only).
    """

    enabled: bool = True
    project: str | None = None
    entity: str | None = None
    name: str | None = None
    group: str | None = None
    tags: list[str] | None = None
    notes: str | None = None
    log_model: bool = False


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
        experiment: Name of the run in W&B, unless the user gives one.
        options: Options of W&B.
        job_type: The sub-command.
        points: Number of points of each logger, by class name, that the checkpoint of a resumed run knows
            of; later ones are removed.

    Raises:
        UsageError: W&B does not understand an option or an environment variable.
    """
    keep = dict(points or {})
    metrics_file = MetricsFile(run.metrics, keep.get(MetricsFile.__name__, 0))
    if not options.enabled:
        return [metrics_file]
    surroundings = surrounding_settings()
    if surroundings.mode == "disabled":
        rank_zero_info("W&B is off, as WANDB_MODE, WANDB_DISABLED or `wandb disabled` says.")
        return [metrics_file]
    names = _names(run, experiment, options, surroundings)
    _tell_ignored(run)
    offline = is_offline(surroundings)
    # absolute, since wandb's service may have been started in another folder
    folder = str(Path(surroundings.root_dir if "WANDB_DIR" in os.environ else run.path).absolute())
    find_homes(run.path.absolute())
    _set_aside_recordings(run.id, Path(folder))
    journal = WandbJournal(
        run,
        keep.get(WandbJournal.__name__, 0),
        **names,
        save_dir=folder,
        id=run.id,
        job_type=surroundings.run_job_type or job_type,
        log_model=options.log_model and not offline,
        mode="offline" if offline else None,
        resume=None if offline else "allow",
        settings=_settings(offline),
    )
    # Lightning 2.6 always passes it, and wandb 0.31 warns about it
    journal._wandb_init.pop("anonymous", None)
    return [journal, metrics_file]


def _settings(offline: bool) -> wandb.Settings:
    """Return what we change of W&B's settings, but for what the user's variables set."""
    ours: dict[str, Any] = {"silent": offline, "console": "off", "init_timeout": _INIT_TIMEOUT_S}
    return wandb.Settings(**{k: v for k, v in ours.items() if f"WANDB_{k.upper()}" not in os.environ})


def _names(
    run: RunDirectory, experiment: str, options: WandbOptions, surroundings: wandb.Settings
) -> dict[str, Any]:
    """Return where the run is in W&B and what it is called there, and keep it for ``resume``.

    An option wins, then what the run had before, then the surroundings, then our default.
    """
    before = json.loads(run.tracking.read_text()) if run.tracking.is_file() else {}
    defaults = {"project": _PROJECT, **{name: experiment[-most:] for name, most in _LONGEST.items()}}
    names = {}
    for name, field in _FIELDS.items():
        sources = (getattr(options, name), before.get(name), getattr(surroundings, field), defaults.get(name))
        names[name] = next((value for value in sources if value is not None), None)
    _check_lengths(names)
    check_settings(**{field: names[name] for name, field in _FIELDS.items()})
    if names != before:
        _keep(run, names)
    return names


def _check_lengths(names: Mapping[str, Any]) -> None:
    for name, most in _LONGEST.items():
        if len(names[name]) > most:
            raise UsageError(f"--wandb.{name} has {len(names[name])} characters; W&B takes at most {most}.")
    for tag in names["tags"] or ():
        if not 1 <= len(tag) <= _LONGEST_TAG:
            raise UsageError(f"--wandb.tags: {tag!r:.80}; W&B takes tags of 1 to {_LONGEST_TAG} characters.")


@rank_zero_only
def _keep(run: RunDirectory, names: Mapping[str, Any]) -> None:
    run.keep_id()
    with atomic_write(run.tracking) as file:
        file.write(json.dumps(names).encode())


def _tell_ignored(run: RunDirectory) -> None:
    """Name the variables that would let several runs share one id; a sweep's agent sets them for one run."""
    ignored = [name for name in ("WANDB_RUN_ID", "WANDB_RESUME") if name in os.environ]
    if ignored and "WANDB_SWEEP_ID" not in os.environ:
        text = f"every run has an id of its own, this one {run.id}, and `cbam-lightning resume` keeps it"
        rank_zero_info(f"Not used: {' and '.join(ignored)}; {text}.")


@rank_zero_only
def _set_aside_recordings(run_id: str, folder: Path) -> None:
    """Leave one recording to upload: the new one repeats all points of those before."""
    wandb_folder = folder / "wandb"
    for recording in wandb_folder.glob(f"offline-run-*-{run_id}"):
        target = wandb_folder / "superseded" / recording.name
        target.parent.mkdir(exist_ok=True)
        recording.rename(target)


def wandb_lines(loggers: list[Logger]) -> list[str]:
    """Return where the W&B run is, or the command that uploads it; nothing if W&B is off."""
    lines = []
    for experiment in (logger.experiment for logger in loggers if isinstance(logger, WandbLogger)):
        if experiment.offline:
            folder = os.path.relpath(Path(experiment.dir).parent)
            lines.append(f"offline; upload it with: {program('wandb')} sync {shlex.quote(folder)}")
        elif experiment.url:
            lines.append(experiment.url)
    return lines


def finish_wandb(exit_code: int) -> None:
    """End the W&B run, if any, so that the next one in this process is a new run.

    Args:
        exit_code: Exit code that W&B shows: 0 for success.
    """
    if wandb.run is None:
        return
    try:
        wandb.finish(exit_code=exit_code)
    except Exception as error:  # W&B's service is another process, which may have died
        tell_lost(wandb.run.id, error)
        with suppress(Exception):
            wandb.teardown()  # else it is tried again, with a traceback, when Python ends
        unset_globals()  # type: ignore[no-untyped-call]
