"""The layout of a run's directory."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pytorch_lightning.utilities import rank_zero_only

from cbam_lightning.errors import UsageError
from cbam_lightning.files import atomic_write
from cbam_lightning.runs.names import wandb_id

try:
    import fcntl
except ModuleNotFoundError:  # on Windows
    fcntl = None  # type: ignore[assignment]

# Tells the directory to the processes that Lightning starts for further devices.
_ENVIRONMENT_NAME = "CBAM_LIGHTNING_RUN"


@dataclass
class RunOptions:
    """How a run is filed and finished.

    Args:
        root: Folder of all runs; ``~`` is the home folder.
        experiment: Folder below ``root``. Default: the path of the first ``--config`` file below
            ``experiments/`` without its suffix, or ``default``.
        name: The run's own folder below ``experiment``; if it exists already, its run is resumed. Default:
            the time and a random number.
        test_after_fit: Whether training ends with a test of the best checkpoint.
        changed_data: Whether a run that is resumed may go on with other training or validation images, this
            time. Images that it was trained on may be held out then.
    """

    root: str = "runs"
    experiment: str | None = None
    name: str | None = None
    test_after_fit: bool = True
    changed_data: bool = False


@dataclass(frozen=True)
class _Inside:
    """An attribute that is a path in a run's directory."""

    name: str

    def __get__(self, run: RunDirectory, owner: type) -> Path:
        return run.path / self.name


@dataclass(frozen=True)
class RunDirectory:
    """A run's directory, with the paths of everything in it except for predictions.

    Attributes:
        path: The directory itself, ``<root>/<experiment>/<time>-<id>``.
        config: The resolved configuration; running it again repeats the run.
        checkpoints: Folder of ``best.ckpt`` and ``last.ckpt``.
        best: The checkpoint with the best value of the monitored metric.
        last: The checkpoint from which ``resume`` continues.
        metrics: Every logged metric as CSV.
        history: The metrics that were sent to W&B, one point per line.
        tracking: Where the run is in W&B, and what it is called there, as JSON.
        divergence: Where a run ended whose loss became NaN or Inf, as JSON.
        results: Metrics of the last validation or test, and the evaluated checkpoint, as JSON.
        pictures: Folder of figures.
    """

    path: Path

    config = _Inside("config.yaml")
    checkpoints = _Inside("checkpoints")
    best = _Inside("checkpoints/best.ckpt")
    last = _Inside("checkpoints/last.ckpt")
    metrics = _Inside("metrics.csv")
    history = _Inside("history.jsonl")
    divergence = _Inside("divergence.json")
    results = _Inside("results.json")
    pictures = _Inside("pictures")
    tracking = _Inside(".wandb.json")
    _id_file = _Inside(".wandb-id")
    _occupied = _Inside(".occupied")  # locked while a process trains here; then says how it ended

    @property
    def id(self) -> str:
        """The id of the W&B run: the directory's first name, made unique if a user chose it, or a sweep's."""
        return wandb_id(self._id_file.read_text() if self._id_file.is_file() else self.path.name)

    @classmethod
    def create(cls, root: str, experiment: str, name: str | None = None) -> RunDirectory:
        """Make a new directory, or one with the given name.

        Only the first of several processes makes it; the others learn its path, or never use theirs.

        Raises:
            OSError: The folder cannot be made.
        """
        rank = getattr(rank_zero_only, "rank", 0)
        if rank != 0 and _ENVIRONMENT_NAME in os.environ:
            return cls(Path(os.environ[_ENVIRONMENT_NAME]))
        unique = f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        run = cls(Path(root).expanduser() / experiment / (name or unique))
        if rank == 0:
            run.path.mkdir(parents=True, exist_ok=name is not None)
            # the agent of a W&B sweep chooses the id, and wandb.init accepts no other
            swept = os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None
            if swept or name:
                run.keep_id(swept or f"{name}-{secrets.token_hex(3)}")
            run.announce()
        return run

    def keep_id(self, unique: str | None = None) -> None:
        """Save the id of the W&B run, unless it has one, so that it stays if the directory is renamed.

        Args:
            unique: The id; default: the directory's name.
        """
        if not self._id_file.is_file():
            with atomic_write(self._id_file) as file:
                file.write((unique or self.path.name).encode())

    def announce(self) -> None:
        """Tell the processes that Lightning starts for further devices."""
        os.environ[_ENVIRONMENT_NAME] = str(self.path.absolute())

    def occupy(self) -> None:
        """Keep other processes from training in this directory until this one ends, in whatever way.

        Raises:
            UsageError: Another process is training in it.
        """
        if fcntl is None or getattr(rank_zero_only, "rank", 0) != 0:
            return
        # a descriptor, not a file: it stays open, and so locked, until this process ends
        file = os.open(self._occupied, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            # unlike flock, worker processes do not inherit it, and so do not keep it when this one is killed
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(f"another process is training in {self.path}; stop it first.") from None

    @property
    def is_occupied(self) -> bool:
        """Whether another process trains in this directory."""
        if fcntl is None or not os.access(self._occupied, os.W_OK):
            return False
        with self._occupied.open("r+b") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):  # POSIX allows either errno
                return True
            except OSError:  # a file system without locks
                return False
        return False

    @property
    def ending(self) -> str:
        """How the last training ended, as ``note_ending`` wrote it; empty if it was killed, or still runs."""
        return self._occupied.read_text(errors="replace").strip() if self._occupied.is_file() else ""

    def note_ending(self, how: str) -> None:
        """Write how a training ended.

        Args:
            how: ``ended``, ``stopped`` (by a signal, and can be resumed) or ``failed``.
        """
        if getattr(rank_zero_only, "rank", 0) == 0 and self.path.is_dir():
            # closing the file ends the lock; a full disk is told where it matters
            with contextlib.suppress(OSError):
                self._occupied.write_text(how)

    def forget_end(self) -> None:
        """Remove what a former end of the run left, since the run is trained on."""
        for path in (self.results, self.divergence):
            path.unlink(missing_ok=True)

    @classmethod
    def open(cls, path: str | Path) -> RunDirectory:
        """Return the run at a path.

        Raises:
            UsageError: There is no run at this path.
        """
        run = cls(Path(path))
        if not run.config.is_file():
            raise UsageError(f"{path} is not a run directory: it has no config.yaml.")
        return run


def experiment_name(configs: Sequence[str | Path]) -> str:
    """Return the name of the experiment of a run, from its first configuration file.

    ``experiments/cifar10/resnet20_cbam.yaml`` gives ``cifar10/resnet20_cbam``, ``mine/a.yaml`` gives
    ``a``, and no file gives ``default``.
    """
    if not configs:
        return "default"
    file = Path(os.path.abspath(configs[0]))  # noqa: PTH100 - `..` must not lead out of the folder of runs
    parts = (*file.parent.parts, file.name.removesuffix(file.suffix))
    if "experiments" in parts[:-1]:
        start = len(parts) - parts[::-1].index("experiments")
        return "/".join(parts[start:])
    return parts[-1]
