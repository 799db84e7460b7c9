"""Tables of text: for the terminal, as Markdown, as CSV."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import Any

WIDTH = 110  # characters of a line below a table


def aligned(lines: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> list[str]:
    """Return lines of cells with columns as wide as their widest cell.

    Args:
        lines: The headings first, as many cells in each.
        left: The columns whose cells stand at the left; those of numbers stand at the right.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def with_notes(lines: Sequence[str], notes: Sequence[str], indent: str = "") -> str:
    """Return a table with notes below, broken into lines; all but their first are indented."""
    below = [line for note in notes for line in textwrap.wrap(note, WIDTH, subsequent_indent=indent)]
    return "\n".join([*lines, "", *below])


def markdown_table(
    lines: Sequence[Sequence[str]], notes: Sequence[str] = (), left: Collection[int] = (0,)
) -> str:
    """Return a Markdown table, and notes as a list below; ``lines`` and ``left`` are those of ``aligned``."""
    headings, *rows = lines
    alignment = ["---" if column in left else "---:" for column in range(len(headings))]
    table = [f"| {' | '.join(line)} |" for line in (headings, alignment, *rows)]
    return "\n".join([*table, "", *(f"- {note}" for note in notes)])


def as_csv(records: Sequence[Mapping[str, Any]]) -> str:
    """Return records of the same fields as CSV, a line each after the names of the fields."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()
