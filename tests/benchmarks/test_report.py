"""Tables, ratios, JSON and pictures of known values."""

import json

import pytest

from cbam_lightning.benchmarks import Report, Row
from cbam_lightning.benchmarks.plot import draw
from cbam_lightning.errors import UsageError

MACHINE = {"processor": "Abacus 3", "cores": 2, "threads": 1, "torch": "2.6"}
ROWS = [
    Row("8x4", "copy", [2.0, 1.0, 3.0]),
    Row("8x4", "fused", [4.5, 4.0, 3.5]),
    Row("8x16", "copy", [10.0, 14.0]),
    Row("8x16", "fused", [96.0, 95.0, 97.0]),
    Row("8x16", "other", [6.0]),
]


def report(rows=ROWS, **options):
    given = {"name": "attention_forward", "title": "cbam, forward", "unit": "ms", "baseline": "copy"}
    return Report(**given | {"rows": rows, "machine": MACHINE} | options)


def test_ratios_are_of_the_medians_within_a_group():
    assert [report().ratio(row) for row in ROWS] == [1, 2, 1, 8, 0.5]


def test_the_mean_of_the_ratios_is_geometric_and_over_all_groups():
    assert report().mean_ratios() == {"copy": 1, "fused": 4}
    nothing = [*ROWS[:2], ROWS[2], Row("8x16", "fused", [0])]
    assert report(nothing).mean_ratios() == {"copy": 1, "fused": 0}


def test_the_table():
    assert report().table().splitlines() == [
        "cbam, forward, ms, lower is better",
        "        median    min    max  x copy",
        "8x4",
        " copy     2.00   1.00   3.00    1.00",
        " fused    4.00   3.50   4.50    2.00",
        "8x16",
        " copy    12.00  10.00  14.00    1.00",
        " fused   96.00  95.00  97.00    8.00",
        " other    6.00                  0.50",
        "geometric mean over the groups",
        " copy                           1.00",
        " fused                          4.00",
    ]


def test_the_table_of_bytes_has_every_digit():
    rows = [Row("8x4", "one map", [51_380_224]), Row("8x4", "authors", [128_450_560])]
    text = report(rows, unit="bytes", baseline="one map").table()
    assert text.splitlines() == [
        "cbam, forward, bytes, lower is better",
        "                value  x one map",
        "8x4",
        " one map   51,380,224       1.00",
        " authors  128,450,560       2.50",
    ]


def test_a_report_without_a_baseline_has_no_ratios():
    text = report(baseline=None, lower_is_better=False).table()
    assert text.startswith("cbam, forward, ms, higher is better\n")
    assert "x copy" not in text
    assert "geometric" not in text
    assert text.endswith(" other    6.00")


@pytest.mark.parametrize(
    ("smallest", "printed"),
    [(0.00012345, "0.0001"), (0.012345, "0.0123"), (12.345, "12.3"), (1234.5, "1,234")],
)
def test_the_smallest_median_keeps_three_digits(smallest, printed):
    text = report([Row("8x4", "copy", [smallest]), Row("8x4", "fused", [9999])]).table()
    assert text.splitlines()[3].split() == ["copy", printed, "1.00"]


def test_a_table_fits_a_terminal_of_110_columns():
    values = [1e5 * value for value in (1.0, 2.0, 3.0)]
    candidates = ("copy", "sagan reference", "timm compiled")
    rows = [Row(f"16x{c}x56x56 channels_first", name, values) for c in (256, 2048) for name in candidates]
    long = report(rows, setting={"dtype": "float32"}, machine=MACHINE | {"processor": "Abacus " * 30})
    assert max(map(len, long.table().splitlines())) <= 110
    assert max(map(len, long.conditions().splitlines())) <= 110
    assert long.conditions().replace("\n", " ").startswith("dtype float32, processor Abacus Abacus")


def test_json_has_every_value():
    original = report(setting={"dtype": "float32"})
    written = json.loads(original.to_json())
    assert Report(**{**written, "rows": [Row(**row) for row in written["rows"]]}) == original
    assert written["rows"][1] == {"group": "8x4", "candidate": "fused", "values": [4.5, 4.0, 3.5]}


def test_a_report_knows_its_machine():
    text = Report("loop", "a", "s", ROWS, "copy").to_json()
    assert {"processor", "cores", "threads", "torch", "date"} <= json.loads(text)["machine"].keys()


def test_the_picture_has_a_panel_a_group_and_a_bar_a_candidate():
    panels = [axes for axes in draw(report()).axes if axes.axison]
    assert [panel.get_title(loc="left") for panel in panels] == ["8x4", "8x16"]
    assert [[bar.get_width() for bar in panel.patches] for panel in panels] == [[2, 4], [12, 96, 6]]
    labels = [[text.get_text() for text in panel.texts] for panel in panels]
    assert labels == [
        ["2.00 (1.00x)", "4.00 (2.00x)"],
        ["12.0 (1.00x)", "96.0 (8.00x)", "6.00 (0.50x)"],
    ]
    names = [[label.get_text() for label in panel.get_yticklabels()] for panel in panels]
    assert names == [["copy", "fused"], ["copy", "fused", "other"]]
    (bars,) = panels[0].collections
    assert [segment[:, 0].tolist() for segment in bars.get_segments()] == [[1, 3], [3.5, 4.5]]


@pytest.mark.parametrize(
    ("median", "printed"),
    [(0.012345, "0.0123"), (123.4, "123"), (1248.2, "1,248"), (51_380_224, "51,380,224"), (7, "7")],
)
def test_the_picture_prints_three_digits_and_all_before_the_point(median, printed):
    (panel,) = draw(report([Row("8x4", "copy", [median])])).axes
    assert [text.get_text() for text in panel.texts] == [f"{printed} (1.00x)"]


def test_the_colour_of_a_candidate_is_that_of_every_panel():
    shifted = report([*ROWS[2:], *ROWS[:2]])
    first, second = (axes.patches for axes in draw(shifted).axes)
    assert first[1].get_facecolor() == second[1].get_facecolor()
    assert len({bar.get_facecolor() for bar in first}) == 3


def test_files_are_written_and_never_overwritten(tmp_path):
    folder = tmp_path / "new" / "folder"
    paths = report().save(folder)
    assert [path.name for path in paths] == ["attention_forward.json", "attention_forward.png"]
    assert json.loads(paths[0].read_text()) == json.loads(report().to_json())
    assert paths[1].read_bytes().startswith(b"\x89PNG\r\n")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UsageError, match=r"attention_forward.json already exists"):
        report(ROWS[:2]).save(folder)
    with pytest.raises(UsageError, match=r"attention_forward.png already exists"):
        report(ROWS[:2]).plot(paths[1])
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    paths[0].unlink()
    with pytest.raises(UsageError, match=r"attention_forward.png already exists"):
        report().save(folder)
    assert [path.name for path in folder.iterdir()] == ["attention_forward.png"]
