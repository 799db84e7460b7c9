"""Handling of unreadable image files: an error, or a count and a warning."""

from __future__ import annotations

import warnings
from typing import Any, Literal

from cbam_lightning.data.batch import BadImage, FileBatch
from cbam_lightning.data.detection.detection_batch import DetectionFileBatch
from cbam_lightning.errors import UsageError

MAX_PATHS_SHOWN = 3


class BadImageLog:
    """Raises on unreadable images or collects them, in the main process.

    Args:
        policy: "raise" to stop at the first one, "skip" to collect them.
    """

    def __init__(self, policy: Literal["raise", "skip"]) -> None:
        self.policy = policy
        self._reasons: dict[str, str] = {}
        self._num_reported = 0

    @property
    def paths(self) -> list[str]:
        """The files skipped so far, each once, in the order in which they were found."""
        return list(self._reasons)

    @property
    def reasons(self) -> dict[str, str]:
        """Why each of ``paths`` was skipped."""
        return dict(self._reasons)

    def readable(self, batch: Any) -> Any:
        """Return the batch of a data set without its unreadable images, after adding these."""
        if not isinstance(batch, FileBatch | DetectionFileBatch):
            return batch
        for bad in batch.bad:
            self.add(bad)
        return batch.batch

    def add(self, bad: BadImage) -> None:
        """Raise because of an unreadable image, or remember it.

        Raises:
            UsageError: The file is not an image and the policy is "raise".
            OSError: The file could not be read. This ignores the policy: a failing disk is not a bad image.
        """
        if bad.errno is not None:
            raise OSError(bad.errno, bad.reason, bad.path)
        if self.policy == "raise":
            raise UsageError(
                f"cannot decode {bad.path}: {bad.reason}; "
                "delete or replace the file, or set --data.on_bad_image skip"
            )
        self._reasons.setdefault(bad.path, bad.reason)

    def report(self) -> None:
        """Warn of the skipped files if there are new ones since the last warning."""
        count = len(self._reasons)
        if count == self._num_reported:
            return
        self._num_reported = count
        shown = [f"{path} ({reason})" for path, reason in list(self._reasons.items())[:MAX_PATHS_SHOWN]]
        more = [f"and {count - MAX_PATHS_SHOWN} more"] if count > MAX_PATHS_SHOWN else []
        files = "file that is" if count == 1 else "files that are"
        message = f"skipped {count} {files} not a readable image: {', '.join(shown + more)}"
        warnings.warn(message, stacklevel=2)
