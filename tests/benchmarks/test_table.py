"""Tables of known values."""

import pytest

from cbam_lightning.benchmarks.measurements import Measurement
from cbam_lightning.benchmarks.table import render, render_conditions
from tests.benchmarks.test_measurements import MACHINE, report


def test_the_table():
    assert render(report()).splitlines() == [
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
    rows = [Measurement("8x4", "one map", [51_380_224]), Measurement("8x4", "authors", [128_450_560])]
    text = render(report(rows, unit="bytes", baseline="one map"))
    assert text.splitlines() == [
        "cbam, forward, bytes, lower is better",
        "                value  x one map",
        "8x4",
        " one map   51,380,224       1.00",
        " authors  128,450,560       2.50",
    ]


def test_a_report_without_a_baseline_has_no_ratios():
    text = render(report(baseline=None, lower_is_better=False))
    assert text.startswith("cbam, forward, ms, higher is better\n")
    assert "x copy" not in text
    assert "geometric" not in text
    assert text.endswith(" other    6.00")


@pytest.mark.parametrize(
    ("smallest", "printed"),
    [(0.00012345, "0.0001"), (0.012345, "0.0123"), (12.345, "12.3"), (1234.5, "1,234")],
)
def test_the_smallest_median_keeps_three_digits(smallest, printed):
    text = render(report([Measurement("8x4", "copy", [smallest]), Measurement("8x4", "fused", [9999])]))
    assert text.splitlines()[3].split() == ["copy", printed, "1.00"]


def test_a_table_fits_a_terminal_of_110_columns():
    values = [1e5 * value for value in (1.0, 2.0, 3.0)]
    candidates = ("copy", "sagan reference", "timm compiled")
    rows = [
        Measurement(f"16x{c}x56x56 channels_first", name, values) for c in (256, 2048) for name in candidates
    ]
    long = report(rows, setting={"dtype": "float32"}, machine=MACHINE | {"processor": "Abacus " * 30})
    assert max(map(len, render(long).splitlines())) <= 110
    assert max(map(len, render_conditions(long).splitlines())) <= 110
    assert render_conditions(long).replace("\n", " ").startswith("dtype float32, processor Abacus Abacus")
