"""Tables of text."""

import csv
import io

from cbam_lightning.tables import aligned, as_csv, markdown_table, with_notes

LINES = [["name", "value", "note"], ["a", "1.5", ""], ["longer", "10", "x"]]


def test_columns_are_as_wide_as_their_widest_cell():
    assert aligned(LINES) == ["name    value  note", "a         1.5", "longer     10     x"]
    assert aligned(LINES, left=(0, 2)) == ["name    value  note", "a         1.5", "longer     10  x"]


def test_notes_are_broken_into_lines():
    text = with_notes(["table"], ["word " * 40, "short"], indent="  ")
    first, empty, *below = text.split("\n")
    assert (first, empty) == ("table", "")
    assert [line.startswith("  ") for line in below] == [False, True, False]
    assert max(map(len, below)) <= 110


def test_markdown_aligns_numbers_at_the_right():
    assert markdown_table(LINES, ["how"]).split("\n") == [
        "| name | value | note |",
        "| --- | ---: | ---: |",
        "| a | 1.5 |  |",
        "| longer | 10 | x |",
        "",
        "- how",
    ]


def test_csv_is_read_back():
    records = [{"name": 'a,"b"\n', "value": 0.1 + 0.2}, {"name": "", "value": None}]
    rows = list(csv.DictReader(io.StringIO(as_csv(records), newline="")))
    assert rows == [{"name": 'a,"b"\n', "value": "0.30000000000000004"}, {"name": "", "value": ""}]
