"""A tally as a table for the terminal, as Markdown, as CSV and as a picture."""

from __future__ import annotations

import re
from pathlib import Path

from matplotlib.figure import Figure

from cbam_lightning.explain.survey.tally import CONFIDENCE, Tally, VoteShare
from cbam_lightning.files import check_unwritten
from cbam_lightning.tables import aligned, as_csv, markdown_table, with_notes

_LABEL_WIDTH = 48  # of names, which others may have chosen
_HEADINGS = ["network", "votes", "share", "95 % interval", "p", "p (Holm)", "sign"]
_MARKS = {"more": "+", "fewer": "-", "unresolved": "=", "": ""}
_COLOURS = {"more": "tab:green", "fewer": "tab:red", "unresolved": "tab:gray", "": "tab:gray"}
_TESTS = {
    "t": "paired t-test over the voters' shares",
    "sign": "sign test over the voters, all of whom differ by the same, which gives a t-test no spread",
    "binomial": "exact binomial test of the votes for either, every answer taken as independent",
}


def terminal(tally: Tally) -> str:
    """Return the table with aligned columns, and what it means below."""
    lines = aligned([_HEADINGS, *(_cells(tally, row) for row in tally.rows)])
    return with_notes(lines, explain(tally))


def markdown(tally: Tally) -> str:
    """Return the same as a Markdown table with a list of notes."""
    rows = [[_literal(cell) for cell in _cells(tally, row)] for row in tally.rows]
    return markdown_table([_HEADINGS, *rows], [_literal(note) for note in explain(tally)])


def draw(tally: Tally) -> Figure:
    """Draw the share of each network as a bar with its interval, and of each voter as a dot."""
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
    # a name may hold what matplotlib takes for mathematics
    panel.set_yticks(range(len(rows)), [_plain(row.label) for row in rows], parse_math=False)
    panel.invert_yaxis()
    panel.set_xlim(0, 100)
    voters = len(tally.answered)
    wording = f"{voters} voters, mean and each" if voters > 1 else "one voter"
    panel.set_xlabel(f"share of the votes, percent, with 95 % interval ({wording})")
    panel.grid(axis="x", alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)
    return figure


def save(tally: Tally, folder: str | Path) -> list[Path]:
    """Write ``tally.md``, ``tally.csv`` and ``tally.png``, and return their paths.

    Raises:
        UsageError: One of them is already there; then none is written.
        OSError: The folder or a file cannot be written.
    """
    paths = [Path(folder) / f"tally.{ending}" for ending in ("md", "csv", "png")]
    check_unwritten(*paths)
    Path(folder).mkdir(parents=True, exist_ok=True)
    paths[0].write_text(markdown(tally) + "\n", encoding="utf-8")
    paths[1].write_text(
        as_csv([_record(tally, row) for row in tally.rows]), encoding="utf-8", errors="backslashreplace"
    )
    draw(tally).savefig(paths[2], dpi=130)
    return paths


def explain(tally: Tally) -> list[str]:
    """Return how the table is to be read, and which files were not counted, a sentence or two a note."""
    voters, answers = len(tally.answered), sum(tally.answered)
    who = f"{voters} voters, {answers} answers" if voters > 1 else f"One voter, {answers} answers"
    notes = [f"{who}, {tally.questions} questions; shares in percent. {_interval_note(tally)}"]
    tests = "; ".join(_TESTS[test] for test in dict.fromkeys(row.test for row in tally.networks) if test)
    notes.append(
        f"p: of a difference from {_plain(tally.baseline)} as large as this by chance; {tests}; corrected by "
        f"Holm's method for {len(tally.networks) - 1} in all. Sign: + more or - fewer votes than it with "
        "p (Holm) below 0.05; = not resolved by these votes."
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
            "Intervals: Wilson, every answer taken as independent; they speak of this voter and images like "
            "these, not of other people."
        )
    note = "A share is the mean of the voters' own; intervals: t distribution over the voters' shares."
    if any(row.low == row.high for row in tally.rows):
        note += " Where all voters have the same share, there is no spread, and the interval is a point."
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


def _record(tally: Tally, row: VoteShare) -> dict[str, object]:
    return {
        "network": row.label,
        "baseline": tally.baseline,
        "votes": row.votes,
        "answers": sum(tally.answered),
        "voters": len(tally.answered),
        "share": row.share,
        "low": row.low,
        "high": row.high,
        "confidence": CONFIDENCE,
        "shares": " ".join(map(repr, row.shares)),
        "test": row.test,
        "p": row.p,
        "p_holm": row.p_holm,
        "verdict": tally.verdict(row),
    }


def _plain(text: str, width: int | None = _LABEL_WIDTH) -> str:
    """Return text without what a terminal would obey."""
    shown = "".join(x if x.isprintable() else ascii(x)[1:-1] for x in text)
    return shown if width is None or len(shown) <= width else f"{shown[: width - 3]}..."


def _literal(text: str) -> str:
    """Return text that Markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]<>|#~$&])", r"\\\1", text)
