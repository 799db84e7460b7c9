"""A tally as a table and as a figure."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from cbam_lightning.explain.figure_text import shortened
from cbam_lightning.explain.survey.tally import CONFIDENCE, Tally, VoteShare
from cbam_lightning.tables import Table

_LABEL_WIDTH = 48  # of names, which others may have chosen
_HEADINGS = ("network", "votes", "share", "95 % interval", "p", "p (Holm)", "sign")
_MARKS = {"more": "+", "fewer": "-", "unresolved": "=", "": ""}
_COLOURS = {"more": "tab:green", "fewer": "tab:red", "unresolved": "tab:gray", "": "tab:gray"}
_TESTS = {
    "t": "paired t-test over the voters' shares",
    "sign": "sign test over the voters, because all voters differ by the same amount and a t-test needs "
    "spread",
    "binomial": "exact binomial test of the votes for either network, with every answer independent",
}


def terminal(tally: Tally) -> str:
    """Return the table with aligned columns, and how to read it."""
    return _table(tally).terminal()


def markdown(tally: Tally) -> str:
    """Return the same as a Markdown table with a list of notes, in which names appear literally."""
    return _literal_table(tally).markdown()


def save(tally: Tally, folder: str | Path) -> list[Path]:
    """Write ``tally.md``, ``tally.csv`` and ``tally.png``, and return their paths.

    Raises:
        UsageError: One of them already exists; then none is written.
        OSError: The folder or a file cannot be written.
    """
    return _literal_table(tally).save(folder, "tally", draw(tally))


def draw(tally: Tally) -> Figure:
    """Draw the share of each network as a bar with its interval, and that of each voter as a dot."""
    rows = tally.rows
    figure = Figure(figsize=(8, 1.4 + 0.42 * len(rows)), layout="constrained")
    panel = figure.subplots()
    for place, row in enumerate(rows):
        panel.barh(place, 100 * row.share, height=0.6, color=_COLOURS[tally.verdict(row)], alpha=0.45)
        panel.plot(
            [100 * row.low, 100 * row.high], [place, place], "|-", color="black", ms=9, lw=1.3, clip_on=False
        )
        if len(row.shares) > 1:
            dots = [100 * share for share in row.shares]
            panel.plot(dots, [place] * len(dots), "o", color="tab:blue", alpha=0.45, ms=4, clip_on=False)
    # a name may contain what matplotlib takes for mathematics
    panel.set_yticks(range(len(rows)), [_plain(row.label) for row in rows], parse_math=False)
    panel.invert_yaxis()
    panel.set_xlim(0, 100)
    voters = len(tally.answered)
    wording = f"{voters} voters, mean and each" if voters > 1 else "one voter"
    panel.set_xlabel(f"share of the votes, percent, with 95 % interval ({wording})")
    panel.grid(axis="x", alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)
    return figure


def _table(tally: Tally) -> Table:
    cells, records = [_cells(tally, row) for row in tally.rows], [_record(tally, row) for row in tally.rows]
    return Table(_HEADINGS, cells, notes=_notes(tally), records=records)


def _literal_table(tally: Tally) -> Table:
    table = _table(tally)
    rows = [[_literal(cell) for cell in row] for row in table.rows]
    return replace(table, rows=rows, notes=[_literal(note) for note in table.notes])


def _notes(tally: Tally) -> list[str]:
    """Return how to read the table, and which files were not counted."""
    voters, answers = len(tally.answered), sum(tally.answered)
    who = f"{voters} voters, {answers} answers" if voters > 1 else f"One voter, {answers} answers"
    notes = [f"{who}, {tally.questions} questions; shares in percent. {_interval_note(tally)}"]
    tests = "; ".join(_TESTS[test] for test in dict.fromkeys(row.test for row in tally.networks) if test)
    notes.append(
        f"p: probability that chance alone gives a difference from {_plain(tally.baseline)} this large; "
        f"{tests}; Holm's correction for {len(tally.networks) - 1} comparisons. Sign: + more or - fewer "
        "votes than it with p (Holm) below 0.05; = not resolved by these votes."
    )
    partial = [count for count in tally.answered if count < tally.questions]
    if partial:
        counts = ", ".join(map(str, partial))
        notes.append(
            f"{len(partial)} of {voters} did not answer all {tally.questions} questions, but {counts}."
        )
    notes += [
        f"Not counted: {_plain(str(one.path), None)}: {_plain(one.reason, None)}." for one in tally.rejected
    ]
    return notes


def _interval_note(tally: Tally) -> str:
    if len(tally.answered) == 1:
        return (
            "Intervals: Wilson, with every answer independent; they hold for this voter and images like "
            "these, not for other people."
        )
    note = "A share is the mean over the voters; intervals: t distribution over the voters' shares."
    if any(len(set(row.shares)) == 1 for row in tally.rows):
        note += " Where all voters have the same share: Wilson, with every answer independent."
    return note


def _cells(tally: Tally, row: VoteShare) -> list[str]:
    return [
        _plain(row.label),
        str(row.votes),
        f"{100 * row.share:.1f}",
        f"{100 * row.low:.1f} to {100 * row.high:.1f}",
        _p(row.p),
        _p(row.p_holm),
        _MARKS[tally.verdict(row)],
    ]


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


def _record(tally: Tally, row: VoteShare) -> dict[str, Any]:
    values = asdict(row)
    return {
        "network": values.pop("label"),
        "baseline": tally.baseline,
        "answers": sum(tally.answered),
        "voters": len(tally.answered),
        "share": row.share,
        **values,
        "confidence": CONFIDENCE,
        "verdict": tally.verdict(row),
    }


def _plain(text: str, width: int | None = _LABEL_WIDTH) -> str:
    """Return text without control characters, which a terminal would obey."""
    shown = "".join(x if x.isprintable() else ascii(x)[1:-1] for x in text)
    return shown if width is None else shortened(shown, width)


def _literal(text: str) -> str:
    """Return text that Markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]<>|#~$&])", r"\\\1", text)
