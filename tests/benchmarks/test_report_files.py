"""Figures of known values, and files that are not overwritten."""

import json

import pytest

from cbam_lightning.benchmarks.measurements import Measurement
from cbam_lightning.benchmarks.report_files import draw, save
from cbam_lightning.errors import UsageError
from tests.benchmarks.test_measurements import ROWS, report


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
    (panel,) = draw(report([Measurement("8x4", "copy", [median])])).axes
    assert [text.get_text() for text in panel.texts] == [f"{printed} (1.00x)"]


def test_the_colour_of_a_candidate_is_that_of_every_panel():
    shifted = report([*ROWS[2:], *ROWS[:2]])
    first, second = (axes.patches for axes in draw(shifted).axes)
    assert first[1].get_facecolor() == second[1].get_facecolor()
    assert len({bar.get_facecolor() for bar in first}) == 3


def test_files_are_written_and_never_overwritten(tmp_path):
    folder = tmp_path / "new" / "folder"
    paths = save(report(), folder)
    assert [path.name for path in paths] == ["attention_forward.json", "attention_forward.png"]
    assert json.loads(paths[0].read_text()) == json.loads(report().to_json())
    assert paths[1].read_bytes().startswith(b"\x89PNG\r\n")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UsageError, match=r"attention_forward.json already exists"):
        save(report(ROWS[:2]), folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    paths[0].unlink()
    with pytest.raises(UsageError, match=r"attention_forward.png already exists"):
        save(report(), folder)
    assert [path.name for path in folder.iterdir()] == ["attention_forward.png"]
