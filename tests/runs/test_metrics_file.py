import csv
import math

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks.progress.progress_bar import get_standard_metrics

from cbam_lightning.runs.metrics_file import MetricsFile


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_metrics_are_rows_and_new_ones_columns(tmp_path):
    logger = MetricsFile(tmp_path / "run" / "metrics.csv")
    logger.log_metrics({"a": 0.1}, step=3)
    logger.log_metrics({"b": math.inf, "a": 1 / 3}, step=4)
    logger.log_metrics({"c": 1})
    assert logger.points == 3
    expected = [
        {"a": "0.1", "b": "", "c": "", "step": "3"},
        {"a": repr(1 / 3), "b": "inf", "c": "", "step": "4"},
        {"a": "", "b": "", "c": "1", "step": "2"},
    ]
    assert rows(tmp_path / "run" / "metrics.csv") == expected


def test_a_resumed_file_is_what_it_would_have_been(tmp_path):
    def log(logger, numbers):
        for n in numbers:
            logger.log_metrics({"x": n / 7} if n < 6 else {"y": n / 3}, step=n)

    whole, cut = tmp_path / "whole.csv", tmp_path / "cut.csv"
    log(MetricsFile(whole), range(9))
    log(MetricsFile(cut), range(8))
    assert "y" in cut.read_text()
    resumed = MetricsFile(cut, keep_points=4)
    log(resumed, [4])
    assert list(rows(cut)[0]) == ["step", "x"]  # y came after the checkpoint
    log(resumed, range(5, 9))
    assert cut.read_bytes() == whole.read_bytes()


def test_a_resumed_file_keeps_the_columns_that_its_next_row_lacks(tmp_path):
    path = tmp_path / "metrics.csv"
    MetricsFile(path).log_metrics({"x": 1, "y": 2}, step=0)
    MetricsFile(path, keep_points=1).log_metrics({"y": 3}, step=1)
    assert rows(path) == [{"step": "0", "x": "1", "y": "2"}, {"step": "1", "x": "", "y": "3"}]


def test_the_progress_bar_shows_the_end_of_the_directory(tmp_path):
    trainer = Trainer(logger=MetricsFile(tmp_path / "20260101-1a2b" / "metrics.csv"), accelerator="cpu")
    assert get_standard_metrics(trainer) == {"v_num": "1a2b"}
