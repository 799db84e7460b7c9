"""Which checkpoint ``validate``, ``test`` and ``predict`` evaluate, and that nothing random is evaluated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn

from cbam_lightning.callbacks.resume.checkpointing import AtomicCheckpointIO
from cbam_lightning.errors import UsageError
from cbam_lightning.models.registry import USER_NETWORKS
from cbam_lightning.runs.directory import RunDirectory
from cbam_lightning.tasks.image_task import ImageTask
from cbam_lightning.user_code.class_paths import is_class_path

# Of a run, as it is and as it was before it was resumed with other options (``RunRecord``).
_CONFIGS = "config*.yaml"
# Where a user-defined task may load weights by itself.
_LOADING = ("__init__", "setup", "configure_model")
_NONE = (None, "", "null")


def run_of(config: str | Path) -> RunDirectory | None:
    """Return the run, if it has a checkpoint, whose directory a configuration file lies in."""
    run = RunDirectory(Path(config).parent)
    is_one = Path(config).match(_CONFIGS) and (run.last.is_file() or run.best.is_file())
    return run if is_one else None


def find_checkpoint(
    command: str, configs: Iterable[str | Path], asked: Mapping[str, Any], given: Any, io: AtomicCheckpointIO
) -> str | None:
    """Return the checkpoint that a command line means.

    ``best`` and ``last`` are those of the run whose ``config.yaml`` is among the configurations. The best
    checkpoint of such a run is evaluated unless another one, or weights, are asked for: those that its own
    configuration names are what it started from.

    Args:
        command: The sub-command.
        configs: All configuration files.
        asked: What the command line and the configuration files that are of no run set, by dotted name.
        given: ``ckpt_path`` of the command line and all configuration files.
        io: Reads checkpoints.

    Raises:
        UsageError: It is not clear which run is meant, or it has no such checkpoint.
    """
    runs = list(dict.fromkeys(run for run in map(run_of, configs) if run))
    wanted = asked.get("ckpt_path", given)
    if wanted not in ("best", "last"):
        trains, is_asked = command == "fit", "ckpt_path" in asked or asked.get("model.weights") not in _NONE
        if trains or is_asked or not runs:
            return None if wanted in _NONE else str(wanted)
        wanted = "best"
    if len(runs) != 1:
        resumes = "; to resume one: cbam-lightning resume RUN" if command == "fit" else ""
        raise UsageError(
            f"it is not clear which run's {wanted} checkpoint is meant; give the file, as --ckpt_path RUN/"
            f"checkpoints/{wanted}.ckpt, or one run's configuration, as --config RUN/config.yaml{resumes}."
        )
    path = _checkpoint(runs[0], wanted, io)
    rank_zero_info(f"The checkpoint is {path}.")
    return str(path)


def _checkpoint(run: RunDirectory, name: str, io: AtomicCheckpointIO) -> Path:
    """Return the best or the last checkpoint of a run."""
    path: Path = getattr(run, name)
    if name == "best" and not path.is_file():  # the user chose its name
        states = io.read(run.last).get("callbacks", {}).values()
        found = [state.get("best_model_path") for state in states if isinstance(state, Mapping)]
        named = [file for file in found if file]
        inside = [run.checkpoints / Path(file).name for file in named]  # the run may have been moved
        path = next((file for file in [*inside, *map(Path, named)] if file.is_file()), path)
    if not path.is_file():
        raise UsageError(f"{run.path} has no {name} checkpoint; name a file with --ckpt_path.")
    return path


def require_weights(model: LightningModule, options: Mapping[str, Any]) -> None:
    """Refuse to evaluate a network with random weights; tell if only the user can know.

    Args:
        model: The model to evaluate without a checkpoint.
        options: The options that it was made with.

    Raises:
        UsageError: Nothing was loaded.
    """
    if options.get("weights") not in _NONE:
        return
    name = type(model).__name__
    network = model.hparams.get("network") if isinstance(model, ImageTask) else None
    if not isinstance(model, ImageTask) or _loads_itself(type(model)) or _is_own(network):
        rank_zero_warn(
            f"no checkpoint and no weights are given: {name} has those that it loads itself, if any."
        )
        return
    raise UsageError(
        f"{network} has random weights; give --ckpt_path FILE, --model.weights FILE, or the configuration "
        "of a run, --config RUN/config.yaml, whose best checkpoint is then used."
    )


def _loads_itself(task: type) -> bool:
    """Return whether a user-defined task overrides what may load weights."""
    theirs = takewhile(lambda base: not base.__module__.startswith("cbam_lightning."), task.__mro__)
    return any(name in vars(base) for base in theirs for name in _LOADING)


def _is_own(network: Any) -> bool:
    return network in USER_NETWORKS or is_class_path(network)
