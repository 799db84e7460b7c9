import pytest
import torch

from cbam_lightning.benchmarks.reading import benchmark_data
from cbam_lightning.errors import UsageError
from tests.data.generate import write_image_folder

CANDIDATES = ["PIL", "files", "packed raw", "packed jpeg", "copy"]


@pytest.fixture(scope="module")
def report():
    return benchmark_data(None, images=8, repeats=3)


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
    report = benchmark_data(str(tmp_path / "photos"), images=5, repeats=1)
    assert report.setting["files"] == str(tmp_path / "photos")
    assert torch.get_num_threads() == threads
    with pytest.raises(UsageError, match=r"photos has 5 readable images where 6 were looked for; give fewer"):
        benchmark_data(str(tmp_path / "photos"), images=6, repeats=1)


@pytest.mark.parametrize(("images", "repeats"), [(1, 3), (8, 0)])
def test_numbers_too_small_are_refused(images, repeats):
    with pytest.raises(UsageError, match=f"images is {images}, repeats is {repeats}; allowed"):
        benchmark_data(None, images, repeats)


def test_a_folder_that_is_not_there_is_refused():
    with pytest.raises(UsageError, match="nowhere has 0 readable images where 4 were looked for"):
        benchmark_data("nowhere", images=4, repeats=1)
