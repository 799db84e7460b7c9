"""The images of ``cbam-lightning explain``, a batch at a time, and what is left out and why."""

from __future__ import annotations

import errno
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from cbam_lightning.data.bad_images import BadImageLog
from cbam_lightning.data.detection.dataset import DetectionFiles
from cbam_lightning.data.image_files import FileDataset
from cbam_lightning.data.image_selection import ImageSelection
from cbam_lightning.data.masks import UNREADABLE, MaskFolder
from cbam_lightning.errors import UsageError
from cbam_lightning.weights.header import printable

_OF_ONE_FILE = (errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ELOOP)


class ExplainedImages:
    """The images to explain; what cannot be read is skipped, told at once, and counted.

    Args:
        selection: The images.
        masks: Folder of masks, if one is given.

    Attributes:
        skipped: The reason for each image that was skipped, by name; it grows while the images are read.

    Raises:
        UsageError: The masks do not fit the images.
    """

    def __init__(self, selection: ImageSelection, masks: str | None = None) -> None:
        self.skipped: dict[str, str] = {}
        self._total = len(selection)
        self._selection = self._openable(selection)
        self._masks = MaskFolder(masks, self._selection) if masks is not None else None
        self._masked: Counter[str] = Counter()

    def batches(self, size: int) -> Iterator[list[Any]]:
        """Read up to ``size`` images at a time, as ``ImageSelection.batches`` does.

        Raises:
            UsageError: None of the images can be read.
            OSError: A file cannot be read.
        """
        problems = BadImageLog("skip")
        with tqdm(total=len(self._selection), unit="image", disable=None) as bar:
            for batch in self._selection.batches(size, problems):
                for name, reason in problems.reasons.items():
                    self._skip(name, reason)
                if batch:
                    yield batch
                bar.update(size)
        if len(self.skipped) == self._total:
            name, reason = next(iter(self.skipped.items()))
            raise UsageError(f"none of the {len(self.skipped)} images can be read; {name}: {reason}.")

    def _openable(self, selection: ImageSelection) -> ImageSelection:
        """Skip files that cannot be opened, such as a link to nothing; a failing disk is an error."""
        dataset = selection.dataset
        if not isinstance(dataset, FileDataset | DetectionFiles):
            return selection
        positions = []
        for position in selection.positions:
            name = dataset.name(position)
            try:
                Path(name).open("rb").close()
            except OSError as error:
                if error.errno not in _OF_ONE_FILE:
                    raise
                self._skip(name, error.strerror or type(error).__name__)
            else:
                positions.append(position)
        return ImageSelection(dataset, positions)

    def _skip(self, name: str, reason: str) -> None:
        if name not in self.skipped:
            self.skipped[name] = reason
            _tell(f"skipped {name}: {reason}.")

    def mask(self, name: str) -> tuple[Tensor | None, str | None]:
        """Return the mask of an image, or why it has none; neither if no masks are given."""
        if self._masks is None:
            return None, None
        found = self._masks.of(name)
        if isinstance(found, Tensor):
            self._masked["all" if found.all() else "some"] += 1
            return found, None
        reason, _, details = found.partition(": ")
        self._masked[reason] += 1
        if reason == UNREADABLE:
            _tell(f"the mask {details}; {name} is explained without it.")
        return None, found

    def notes(self) -> list[str]:
        """Return how many images were skipped, and how many have a mask, if that is not all of them."""
        lines = []
        if self.skipped:
            lines.append(f"Skipped: {len(self.skipped)} of {self._total} images, which cannot be read.")
        count, whole = self._masked.total(), self._masked["all"]
        reasons = {reason: number for reason, number in self._masked.items() if reason not in ("all", "some")}
        if reasons:
            counts = "; ".join(f"{number}: {reason}" for reason, number in reasons.items())
            lines.append(f"Without a mask: {sum(reasons.values())} of {count} images ({counts}).")
        if whole:
            lines.append(f"The mask holds the whole image: {whole} of {count} images.")
        return lines


def _tell(text: str) -> None:
    tqdm.write(f"cbam-lightning: {printable(' '.join(text.split()))}", file=sys.stderr)
