"""Tables that are filled once and shown in the terminal, as Markdown, as CSV and as JSON."""

from __future__ import annotations

import csv
import io
import itertools
import json
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cbam_lightning.checks import check_choice
from cbam_lightning.files import check_unwritten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("terminal", "csv", "markdown", "json")
WIDTH = 110  # characters of a line of notes


@dataclass(frozen=True)
class Table:
    """Rows of text under headings, with notes below.

    Attributes:
        headings: One for each column.
        rows: As many cells in each as there are headings.
        left: Columns of text, aligned left; numbers are aligned right.
        notes: How to read the table, a sentence or two each.
        groups: The group of each row, if they have one; rows of a group are adjacent. In the terminal it is
            a line above them, in Markdown a first column.
        records: The unrounded values of each row by name, for CSV and JSON.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: Collection[int] = (0,)
    notes: Sequence[str] = ()
    groups: Sequence[str] = ()
    records: Sequence[Mapping[str, Any]] = ()

    def render(self, format: str) -> str:  # noqa: A002 - the name of the commands' option
        """Return the table in one of ``FORMATS``.

        Raises:
            UsageError: An unknown format.
        """
        check_choice("format", format, FORMATS)
        text: str = getattr(self, format)()
        return text

    def terminal(self) -> str:
        """Return columns as wide as their widest cell, and the notes in lines of at most 110 characters."""
        headings, *lines = aligned([self.headings, *self.rows], self.left)
        if self.groups:
            pairs = itertools.groupby(zip(self.groups, lines, strict=True), key=lambda pair: pair[0])
            lines = [line for name, rows in pairs for line in (name, *(f" {row}" for _, row in rows))]
            headings = f" {headings}"
        notes = [line for note in self.notes for line in textwrap.wrap(note, WIDTH, subsequent_indent="  ")]
        return "\n".join([headings, *lines, *([""] if notes else []), *notes])

    def markdown(self) -> str:
        """Return a Markdown table, and the notes as a list below."""
        headings, rows, left = self.headings, self.rows, self.left
        if self.groups:
            headings, left = ["table", *headings], [0, *(column + 1 for column in left)]
            rows = [[group, *row] for group, row in zip(self.groups, rows, strict=True)]
        alignment = ["---" if column in left else "---:" for column in range(len(headings))]
        lines = [f"| {' | '.join(cells)} |" for cells in (headings, alignment, *rows)]
        notes = [f"- {note}" for note in self.notes]
        return "\n".join([*lines, *([""] if notes else []), *notes])

    def csv(self) -> str:
        """Return the records as CSV, below a line with their names."""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _csv_cell(value) for name, value in row.items()} for row in self.records)
        return text.getvalue().removesuffix("\n")

    def json(self) -> str:
        """Return the records as a JSON list."""
        return json.dumps(self.records, indent=2)

    def save(self, folder: str | Path, name: str, figure: Figure) -> list[Path]:
        """Write ``<name>.md``, ``<name>.csv`` and ``<name>.png``, and return their paths.

        Raises:
            UsageError: One of them already exists; then none is written.
            OSError: The folder or a file cannot be written.
        """
        paths = table_paths(folder, name)
        check_unwritten(*paths)
        Path(folder).mkdir(parents=True, exist_ok=True)
        for path, text in zip(paths, (self.markdown(), self.csv()), strict=False):
            path.write_text(f"{text}\n", encoding="utf-8", errors="backslashreplace")
        figure.savefig(paths[-1], dpi=130)
        return paths


def aligned(lines: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> list[str]:
    """Return lines of cells with columns as wide as their widest cell.

    Args:
        lines: The same number of cells in each.
        left: Columns that are aligned left.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def table_paths(folder: str | Path, name: str) -> list[Path]:
    """Return the paths that ``Table.save`` writes."""
    return [Path(folder) / f"{name}.{ending}" for ending in ("md", "csv", "png")]


def join_values(value: Any) -> str:
    """Return a value of an option briefly: ``("avg", "max")`` as ``avg+max``."""
    return "+".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _csv_cell(value: Any) -> Any:
    if isinstance(value, Mapping):
        return ";".join(f"{name}={join_values(inner)}" for name, inner in value.items())
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
