import pytest
import torch

from cbam_lightning.benchmarks.options import ReadingOptions
from cbam_lightning.benchmarks.time_reading import time_reading
from cbam_lightning.errors import UsageError
from tests.data.generate import write_image_folder

CANDIDATES = ["PIL", "files", "packed raw", "packed jpeg", "copy"]


@pytest.fixture(scope="module")
def report():
    (report,) = time_reading(ReadingOptions(images=8, repeats=3))
    return report


def test_every_pipeline_is_measured_in_training_and_evaluation(report):
    assert [(row.group, row.candidate) for row in report.rows] == [
        (group, candidate) for group in ("training", "evaluation") for candidate in CANDIDATES
    ]
    assert all(len(row.values) == 3 and min(row.values) > 0 for row in report.rows)
    assert (report.unit, report.baseline, report.lower_is_better) == ("images/s", "PIL", False)


def test_what_must_be_faster_is(report):
    for rows in report.groups().values():
        rates = {row.candidate: row.median for row in rows}
        assert rates["PIL"] < rates["files"] < rates["packed raw"] < rates["copy"]


def test_images_of_the_user_can_be_measured(tmp_path):
    write_image_folder(tmp_path / "photos", ["cat", "dog"], 3)
    (tmp_path / "photos" / "cat" / "001.jpg").write_text("no image")
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    threads = torch.get_num_threads()
    (report,) = time_reading(ReadingOptions(root=str(tmp_path / "photos"), images=5, repeats=1))
    assert report.setting["files"] == str(tmp_path / "photos")
    assert torch.get_num_threads() == threads
    with pytest.raises(UsageError, match=r"photos has only 5 readable images of the 6 requested; give fewer"):
        time_reading(ReadingOptions(root=str(tmp_path / "photos"), images=6, repeats=1))


def test_a_single_image_is_refused():
    with pytest.raises(UsageError, match="images is 1; give 2 or more"):
        time_reading(ReadingOptions(images=1))


def test_a_folder_that_is_not_there_is_refused():
    with pytest.raises(UsageError, match="nowhere has only 0 readable images of the 4 requested"):
        time_reading(ReadingOptions(root="nowhere", images=4, repeats=1))
