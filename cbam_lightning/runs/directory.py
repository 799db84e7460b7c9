"""One directory a run: where everything it leaves behind has its place."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO

from pytorch_lightning.utilities import rank_zero_only

from cbam_lightning.errors import UsageError
from cbam_lightning.files import atomic_write

try:
    import fcntl
except ModuleNotFoundError:  # on Windows
    fcntl = None  # type: ignore[assignment]

_OPEN_FILES: list[IO[str]] = []  # a lock ends when its file is closed

# Processes that Lightning starts for further devices learn the directory from the first one.
_ENVIRONMENT_NAME = "CBAM_LIGHTNING_RUN"


@dataclass
class RunOptions:
    """How a run is filed and finished.

    Args:
        root: Folder of all runs.
        experiment: Folder below ``root``; left out, it is the path of the first ``--config`` file below
            ``experiments/`` without its ending, or ``default``.
        name: The run's own folder below ``experiment``; a training of that name that is there already goes
            on. Left out, it is the time and a random number.
        test_after_fit: Whether training ends with a test of the best checkpoint.
    """

    root: str = "runs"
    experiment: str | None = None
    name: str | None = None
    test_after_fit: bool = True


@dataclass(frozen=True)
class RunDirectory:
    """The layout of a run's directory.

    Attributes:
        path: The directory itself, ``<root>/<experiment>/<time>-<id>``.
    """

    path: Path

    @property
    def id(self) -> str:
        """The id of the W&B run: the directory's name, made unique if a user chose it, or a sweep's."""
        return self._id_file.read_text() if self._id_file.is_file() else self.path.name

    @property
    def _id_file(self) -> Path:
        return self.path / ".wandb-id"

    def _keep_id(self, name: str | None) -> None:
        """Write down the id of the W&B run if it is not the directory's name."""
        # the agent of a W&B sweep chooses it, and wandb.init takes no other one
        swept = os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None
        if (swept or name) and not self._id_file.is_file():
            with atomic_write(self._id_file) as file:
                file.write((swept or f"{name}-{secrets.token_hex(3)}").encode())

    @property
    def config(self) -> Path:
        """The resolved configuration; running it again repeats the run."""
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        """Folder of ``best.ckpt`` and ``last.ckpt``."""
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        """The checkpoint that ``resume`` goes on from."""
        return self.checkpoints / "last.ckpt"

    @property
    def best(self) -> Path:
        """The checkpoint with the highest ``val/top1``."""
        return self.checkpoints / "best.ckpt"

    @property
    def metrics(self) -> Path:
        """Every logged metric as CSV."""
        return self.path / "metrics.csv"

    @property
    def history(self) -> Path:
        """What was sent to W&B, one point a line; pictures are in the folder of the same name."""
        return self.path / "history.jsonl"

    @property
    def divergence(self) -> Path:
        """Where a training ended whose loss was no number any more, as JSON."""
        return self.path / "divergence.json"

    @property
    def results(self) -> Path:
        """Metrics of the last validation or test, with the checkpoint they belong to, as JSON."""
        return self.path / "results.json"

    @property
    def pictures(self) -> Path:
        """Folder of figures."""
        return self.path / "pictures"

    @property
    def predictions(self) -> Path:
        """Predictions as CSV."""
        return self.path / "predictions.csv"

    @property
    def raw_predictions(self) -> Path:
        """What a module of the user's own predicted, batch by batch, for ``torch.load``."""
        return self.path / "predictions.pt"

    @property
    def detections(self) -> Path:
        """Detections as COCO's results, JSON."""
        return self.path / "detections.json"

    @classmethod
    def create(cls, root: str, experiment: str, name: str | None = None) -> RunDirectory:
        """Make a directory that no other run has, or that of a name.

        Only the first of several processes makes one; the others are told, or never use theirs.

        Raises:
            OSError: The folder cannot be made.
        """
        rank = getattr(rank_zero_only, "rank", 0)
        if rank != 0 and _ENVIRONMENT_NAME in os.environ:
            return cls(Path(os.environ[_ENVIRONMENT_NAME]))
        unique = f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        run = cls(Path(root) / experiment / (name or unique))
        if rank == 0:
            run.path.mkdir(parents=True, exist_ok=name is not None)
            run._keep_id(name)
            run.announce()
        return run

    def announce(self) -> None:
        """Tell the processes that Lightning starts for further devices."""
        os.environ[_ENVIRONMENT_NAME] = str(self.path.absolute())

    def occupy(self) -> None:
        """Keep other processes from training in this directory, until this one ends in whatever way.

        Raises:
            UsageError: Another process trains in it.
        """
        if fcntl is None or getattr(rank_zero_only, "rank", 0) != 0:
            return
        file = (self.path / ".occupied").open("w")
        _OPEN_FILES.append(file)
        try:
            # unlike flock, nothing that worker processes inherit and keep when this one is killed
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            message = f"another process is training in {self.path}; let it end, or stop it, first."
            raise UsageError(message) from None

    @classmethod
    def open(cls, path: str | Path) -> RunDirectory:
        """Find the run at a path.

        Raises:
            UsageError: There is no finished or running run at this path.
        """
        run = cls(Path(path))
        if not run.config.is_file():
            message = f"{path} is no run directory: it has no config.yaml."
            raise UsageError(message)
        return run


def experiment_name(configs: Sequence[str | Path]) -> str:
    """Return the name that a run gets from its first configuration file.

    ``experiments/cifar10/resnet20_cbam.yaml`` gives ``cifar10/resnet20_cbam``, ``mine/a.yaml`` gives
    ``a``, and no file gives ``default``.
    """
    if not configs:
        return "default"
    path = Path(configs[0]).absolute().with_suffix("")
    parts = path.parts
    if "experiments" in parts[:-1]:
        start = len(parts) - parts[::-1].index("experiments")
        return "/".join(parts[start:])
    return path.name
