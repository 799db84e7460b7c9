"""Ratios and JSON of known values."""

import json

from cbam_lightning.benchmarks.measurements import Measurement, Report, collect, milliseconds

MACHINE = {"processor": "Abacus 3", "cores": 2, "threads": 1, "torch": "2.6"}
ROWS = [
    Measurement("8x4", "copy", [2.0, 1.0, 3.0]),
    Measurement("8x4", "fused", [4.5, 4.0, 3.5]),
    Measurement("8x16", "copy", [10.0, 14.0]),
    Measurement("8x16", "fused", [96.0, 95.0, 97.0]),
    Measurement("8x16", "other", [6.0]),
]


def report(rows=ROWS, **options):
    given = {"name": "attention_forward", "title": "cbam, forward", "unit": "ms", "baseline": "copy"}
    return Report(**given | {"rows": rows, "machine": MACHINE} | options)


def test_ratios_are_of_the_medians_within_a_group():
    assert [report().ratio(row) for row in ROWS] == [1, 2, 1, 8, 0.5]


def test_the_mean_of_the_ratios_is_geometric_and_over_all_groups():
    assert report().mean_ratios() == {"copy": 1, "fused": 4}
    nothing = [*ROWS[:2], ROWS[2], Measurement("8x16", "fused", [0])]
    assert report(nothing).mean_ratios() == {"copy": 1, "fused": 0}


def test_json_has_every_value():
    original = report(setting={"dtype": "float32"})
    written = json.loads(original.to_json())
    assert Report(**{**written, "rows": [Measurement(**row) for row in written["rows"]]}) == original
    assert written["rows"][1] == {"group": "8x4", "candidate": "fused", "values": [4.5, 4.0, 3.5]}


def test_a_report_knows_its_machine():
    text = Report("loop", "a", "s", ROWS, "copy").to_json()
    assert {"processor", "cores", "threads", "torch", "date"} <= json.loads(text)["machine"].keys()


def test_measurements_of_a_group_in_the_unit_of_the_report():
    seconds = {"copy": [0.5, 0.25], "fused": [2.0]}
    found = collect("8x4", seconds, milliseconds)
    assert found == [Measurement("8x4", "copy", [500, 250]), Measurement("8x4", "fused", [2000])]
    (measured,) = collect("8x4", {"one map": [48]})
    assert isinstance(measured.values[0], int)
