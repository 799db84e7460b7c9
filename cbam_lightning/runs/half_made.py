"""The folders of a run that came to nothing."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from pytorch_lightning.utilities import rank_zero_only


class NewFolders:
    """Remember which folders a run is going to make, to be able to take them back.

    Args:
        path: Where the run, or its folder of a random name, is going to be.
    """

    def __init__(self, path: Path) -> None:
        self._missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        self._known = {path, *path.parents} - set(self._missing)

    @rank_zero_only
    def take_back(self, run: Path) -> None:
        """Remove the run's folder, and those above it that were made for it and are empty."""
        if run in self._known:
            return
        shutil.rmtree(run, ignore_errors=True)
        with contextlib.suppress(OSError):  # another run came into it meanwhile
            for folder in self._missing:
                if folder.exists():
                    folder.rmdir()
