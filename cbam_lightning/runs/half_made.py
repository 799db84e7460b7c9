"""Removing the folders of a run that never began."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from pytorch_lightning.utilities import rank_zero_only


class NewFolders:
    """Remembers which folders a run will make, to be able to remove them.

    Args:
        path: The future folder of the run, or the one in which it gets a random name.
    """

    def __init__(self, path: Path) -> None:
        self._missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        self._known = {path, *path.parents} - set(self._missing)

    @rank_zero_only
    def take_back(self, run: Path) -> None:
        """Remove the run's folder, and its parents if they were made for it and are empty."""
        if run in self._known:
            return
        shutil.rmtree(run, ignore_errors=True)
        with contextlib.suppress(OSError):  # another run was started in it
            for folder in self._missing:
                if folder.exists():
                    folder.rmdir()
