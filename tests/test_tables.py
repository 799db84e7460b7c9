"""Tables in the terminal, as Markdown, CSV and JSON."""

import csv
import io
import json
from dataclasses import replace

import pytest
from matplotlib.figure import Figure

from cbam_lightning.errors import UsageError
from cbam_lightning.tables import FORMATS, Table, aligned

TABLE = Table(["name", "value", "note"], [["a", "1.5", ""], ["longer", "10", "x"]])
RECORDS = [
    {"name": 'a,"b"\n', "value": 0.1 + 0.2, "options": {"pools": ("avg", "max"), "kernel_size": 3}},
    {"name": "", "value": None, "options": {}},
]


def test_columns_are_as_wide_as_their_widest_cell():
    assert TABLE.terminal().split("\n") == ["name    value  note", "a         1.5", "longer     10     x"]
    left = aligned([TABLE.headings, *TABLE.rows], left=(0, 2))
    assert left == ["name    value  note", "a         1.5", "longer     10  x"]


def test_groups_are_lines_in_the_terminal_and_a_column_in_markdown():
    rows = [*TABLE.rows, ["b", "2", ""]]
    table = replace(TABLE, rows=rows, groups=["first", "first", "second"])
    assert table.terminal().split("\n") == [
        " name    value  note",
        "first",
        " a         1.5",
        " longer     10     x",
        "second",
        " b           2",
    ]
    assert table.markdown().split("\n") == [
        "| table | name | value | note |",
        "| --- | --- | ---: | ---: |",
        "| first | a | 1.5 |  |",
        "| first | longer | 10 | x |",
        "| second | b | 2 |  |",
    ]


def test_notes_are_wrapped():
    text = replace(TABLE, notes=["word " * 40, "short"]).terminal()
    *_, empty, first, second, last = text.split("\n")
    assert empty == ""
    assert [line.startswith("  ") for line in (first, second, last)] == [False, True, False]
    assert max(map(len, text.split("\n"))) <= 110


def test_markdown_aligns_numbers_at_the_right():
    assert replace(TABLE, notes=["how"]).markdown().split("\n") == [
        "| name | value | note |",
        "| --- | ---: | ---: |",
        "| a | 1.5 |  |",
        "| longer | 10 | x |",
        "",
        "- how",
    ]


def test_csv_and_json_are_read_back():
    table = replace(TABLE, records=RECORDS)
    rows = list(csv.DictReader(io.StringIO(table.csv(), newline="")))
    options = "pools=avg+max;kernel_size=3"
    assert rows[0] == {"name": 'a,"b"\n', "value": "0.30000000000000004", "options": options}
    assert rows[1] == {"name": "", "value": "", "options": ""}
    assert json.loads(table.json())[0]["options"] == {"pools": ["avg", "max"], "kernel_size": 3}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_rendered(name):
    assert replace(TABLE, records=RECORDS).render(name) == getattr(replace(TABLE, records=RECORDS), name)()


def test_files_are_written_once(tmp_path):
    table = replace(TABLE, records=RECORDS)
    paths = table.save(tmp_path / "new", "name", Figure())
    assert [path.name for path in paths] == ["name.md", "name.csv", "name.png"]
    assert paths[0].read_text() == table.markdown() + "\n"
    paths[0].unlink()
    with pytest.raises(UsageError, match=r"name\.csv already exists"):
        table.save(tmp_path / "new", "name", Figure())
    assert not paths[0].exists()
