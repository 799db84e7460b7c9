"""The files of ``cbam-lightning explain``: JSON with every number, an HTML report, and the paper's figure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from cbam_lightning.errors import UsageError
from cbam_lightning.explain.explanations import ExplainedImage
from cbam_lightning.explain.gradcam_figure import COLOUR_MAP, draw_figure
from cbam_lightning.explain.html_page import atomic_text, colour_map, write_page
from cbam_lightning.explain.networks import ExplainedNetwork
from cbam_lightning.explain.report_entries import as_item, as_record
from cbam_lightning.explain.summary import FIGURES, Summary
from cbam_lightning.files import atomic_write, check_unwritten

FILES = ("figure.png", "report.html", "explained.json")


class ExplanationReport:
    """Writes the explanations of images, one image after the other.

    Memory holds one image at a time, the images of the figure, and a few numbers per image.

    Args:
        networks: The explained networks.
        folder: Where to write ``figure.png``, ``report.html`` and ``explained.json``.
        rows: Number of images in the figure.

    Attributes:
        summary: The metrics of every network over the images so far.

    Raises:
        UsageError: One of the files already exists.
    """

    def __init__(self, networks: Sequence[ExplainedNetwork], folder: str | Path, rows: int = 8) -> None:
        self.networks = networks
        self.labels = [network.label for network in networks]
        self.class_names = networks[0].class_names
        self.figure, self.page, self.numbers = (Path(folder) / name for name in FILES)
        check_unwritten(self.figure, self.page, self.numbers)
        self.summary = Summary(self.labels)
        self._rows = rows
        self._shown: list[ExplainedImage] = []

    def write(self, images: Iterable[ExplainedImage]) -> list[Path]:
        """Write all files; if interrupted, none is left behind.

        Args:
            images: Any number of images, explained by every network.

        Returns:
            The paths of the files.

        Raises:
            UsageError: There is no image.
            OSError: A file cannot be written.
        """
        with atomic_text(self.page) as page, atomic_text(self.numbers) as numbers:
            items = self._record(images, numbers)
            write_page(page, "report", "What the networks look at", self._overview, items)
        with atomic_write(self.figure) as file:
            figure = draw_figure(self._shown, self.labels, self.class_names)
            figure.savefig(file, dpi=130, format="png", bbox_inches="tight")
        return [self.figure, self.page, self.numbers]

    def _record(self, images: Iterable[ExplainedImage], numbers: TextIO) -> Iterator[dict[str, Any]]:
        """Write the numbers of every image as JSON, and yield what the page shows of it."""
        numbers.write('{"images": [')
        for number, image in enumerate(images):
            self.summary.add(image)
            if len(self._shown) < self._rows:
                self._shown.append(image)
            record = as_record(image, self.labels, self.class_names)
            numbers.write((",\n" if number else "\n") + json.dumps(record))
            yield as_item(image)
        if not self._shown:
            message = "there is no image to explain."
            raise UsageError(message)
        networks = json.dumps(self._overview()["networks"], indent=1, default=asdict)
        numbers.write(f'\n],\n"networks": {networks}}}\n')

    def _overview(self) -> dict[str, Any]:
        return {
            "classes": self.class_names,
            "figures": FIGURES,
            "colours": colour_map(COLOUR_MAP),
            "networks": [
                {
                    "label": network.label,
                    "network": network.header.network,
                    "attention": network.header.attention,
                    "layer": network.cam.layer,
                    "figures": self.summary.estimates(number),
                    "differences": self.summary.differences(number) if number else {},
                }
                for number, network in enumerate(self.networks)
            ],
        }
