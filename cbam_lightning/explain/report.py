"""All that was seen, as it comes: JSON with every number, an HTML report, and the paper's figure."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from cbam_lightning.errors import UsageError
from cbam_lightning.explain.entries import as_item, as_record
from cbam_lightning.explain.figure import COLOUR_MAP, draw_figure
from cbam_lightning.explain.looking import Looked
from cbam_lightning.explain.page import colour_map, write_page
from cbam_lightning.explain.subjects import Subject
from cbam_lightning.explain.summary import FIGURES, Summary
from cbam_lightning.files import atomic_write, check_unwritten

FILES = ("figure.png", "report.html", "explained.json")


class Report:
    """Writes what networks made of images, one image after the other.

    One image at a time is in memory, besides the first ones, which the figure shows, and a few numbers of
    each.

    Args:
        subjects: The networks.
        folder: Where to write ``figure.png``, ``report.html`` and ``explained.json``.
        rows: How many images the figure shows.

    Attributes:
        summary: The figures of every network over the images so far.

    Raises:
        UsageError: One of the files is already there.
    """

    def __init__(self, subjects: Sequence[Subject], folder: str | Path, rows: int = 8) -> None:
        self.subjects = subjects
        self.labels = [subject.label for subject in subjects]
        self.class_names = subjects[0].class_names
        self.figure, self.page, self.numbers = (Path(folder) / name for name in FILES)
        check_unwritten(self.figure, self.page, self.numbers)
        self.summary = Summary(self.labels)
        self._rows = rows
        self._shown: list[Looked] = []

    def write(self, looked: Iterable[Looked]) -> list[Path]:
        """Write all files; a broken-off one leaves none.

        Args:
            looked: Images with what every network made of them, in any number.

        Returns:
            Their paths.

        Raises:
            UsageError: There is no image.
            OSError: A file cannot be written.
        """
        self.page.parent.mkdir(parents=True, exist_ok=True)
        with _text(self.page) as page, _text(self.numbers) as numbers:
            items = map(as_item, self._counted(self._recorded(looked, numbers)))
            write_page(page, "report", "What the networks look at", self._overview, items)
        with atomic_write(self.figure) as file:
            draw_figure(self._shown, self.labels, self.class_names).savefig(
                file, dpi=130, format="png", bbox_inches="tight"
            )
        return [self.figure, self.page, self.numbers]

    def _counted(self, looked: Iterable[Looked]) -> Iterator[Looked]:
        for one in looked:
            self.summary.add(one)
            if len(self._shown) < self._rows:
                self._shown.append(one)
            yield one
        if not self._shown:
            message = "there is no image to explain."
            raise UsageError(message)

    def _recorded(self, looked: Iterable[Looked], file: TextIO) -> Iterator[Looked]:
        file.write('{"images": [')
        for number, one in enumerate(looked):
            file.write(",\n" if number else "\n")
            file.write(json.dumps(as_record(one, self.labels, self.class_names)))
            yield one
        file.write(f'\n],\n"networks": {json.dumps(self._overview()["networks"], indent=1)}}}\n')

    def _overview(self) -> dict[str, Any]:
        return {
            "classes": self.class_names,
            "figures": FIGURES,
            "colours": colour_map(COLOUR_MAP),
            "networks": [
                {
                    "label": subject.label,
                    "network": subject.header.network,
                    "attention": subject.header.attention,
                    "layer": subject.cam.layer,
                    "figures": {k: asdict(v) for k, v in self.summary.estimates(number).items()},
                    "differences": {
                        k: asdict(v) for k, v in (self.summary.differences(number) if number else {}).items()
                    },
                }
                for number, subject in enumerate(self.subjects)
            ],
        }


@contextmanager
def _text(path: Path) -> Iterator[TextIO]:
    with atomic_write(path) as file:
        # a name that is no UTF-8 is shown with the escape that it has in JSON
        text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="\n")
        yield text
        text.flush()
        text.detach()
