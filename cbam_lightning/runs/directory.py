"""One directory a run: where everything it leaves behind has its place."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pytorch_lightning.utilities import rank_zero_only

from cbam_lightning.errors import UsageError

# Processes that Lightning starts for further devices learn the directory from the first one.
_ENVIRONMENT_NAME = "CBAM_LIGHTNING_RUN"


@dataclass
class RunOptions:
    """How a run is filed and finished.

    Args:
        root: Folder of all runs.
        experiment: Folder below ``root``; left out, it is the path of the first ``--config`` file below
            ``experiments/`` without its ending, or ``default``.
        test_after_fit: Whether training ends with a test of the best checkpoint.
    """

    root: str = "runs"
    experiment: str | None = None
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
        """Its name, which is the id of the W&B run, too."""
        return self.path.name

    @property
    def config(self) -> Path:
        """The resolved configuration; running it again repeats the run."""
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        """Folder of ``best.ckpt`` and ``last.ckpt``."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """The checkpoint with the highest ``val/top1``."""
        return self.checkpoints / "best.ckpt"

    @property
    def metrics(self) -> Path:
        """Every logged metric as CSV."""
        return self.path / "metrics.csv"

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

    @classmethod
    def create(cls, root: str, experiment: str) -> RunDirectory:
        """Make a directory that no other run has.

        Only the first of several processes makes one; the others are told, or never use theirs.

        Raises:
            OSError: The folder cannot be made.
        """
        rank = getattr(rank_zero_only, "rank", 0)
        if rank != 0 and _ENVIRONMENT_NAME in os.environ:
            return cls(Path(os.environ[_ENVIRONMENT_NAME]))
        path = Path(root) / experiment / f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        if rank == 0:
            path.mkdir(parents=True)
            os.environ[_ENVIRONMENT_NAME] = str(path.absolute())
        return cls(path)

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
