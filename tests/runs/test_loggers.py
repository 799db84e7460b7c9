import csv
import math

import numpy as np
import pytest
import wandb

from cbam_lightning.runs.directory import RunDirectory
from cbam_lightning.runs.loggers import MetricsFile
from cbam_lightning.runs.wandb_options import WandbOptions, build_loggers, finish_wandb
from tests.runs.recordings import points, read_back


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


def journal(run, points=0):
    options = WandbOptions()
    return build_loggers(run, "x", options, "fit", {"WandbJournal": points})[0]


def log_all(logger, numbers):
    for n in numbers:
        if n == 2:
            logger.log_image("seen", [np.full((4, 4, 3), 50, np.uint8)])
            logger.log_table("counts", columns=["a", "b"], data=[[1, "x"], [2, "y"]])
        else:
            logger.log_metrics({"loss": 1 / (n + 1)}, step=n)


def test_a_resumed_recording_holds_every_point_once(tmp_path):
    whole, cut = RunDirectory(tmp_path / "whole"), RunDirectory(tmp_path / "cut")
    for run in (whole, cut):
        run.path.mkdir()
    log_all(journal(whole), range(6))
    finish_wandb(0)
    log_all(journal(cut), range(5))  # 0, 1, picture, table, 3, 4
    finish_wandb(1)
    resumed = journal(cut, points=4)
    log_all(resumed, range(3, 6))
    finish_wandb(0)

    folder, found = read_back(cut.path)
    _, expected = read_back(whole.path)
    losses = [point.get("loss") for point in points(found)]
    assert (
        losses
        == [point.get("loss") for point in points(expected)]
        == [1, 1 / 2, None, None, 1 / 4, 1 / 5, 1 / 6]
    )
    assert cut.history.read_text() == whole.history.read_text()
    assert len(list((folder / "files" / "media").rglob("*.png"))) == 1
    assert len(list((folder / "files" / "media").rglob("*.table.json"))) == 1
    assert len(list((cut.path / "wandb" / "superseded").iterdir())) == 1


class Server:
    """As much of W&B as a run that goes on online shows of it: what it had before, and what it is sent."""

    def __init__(self, there):
        self.summary = {"trainer/point": there} if there >= 0 else {}
        self.sent = []

    def log(self, point):
        self.sent.append(point)


@pytest.mark.parametrize(("there", "expected"), [(-1, [0, 1, 2, 3]), (1, [2, 3]), (2, [3]), (3, [])])
def test_online_only_what_is_missing_is_sent(tmp_path, monkeypatch, there, expected):
    run = RunDirectory(tmp_path)
    run.history.write_text(
        "".join(f'{{"values": {{"x": {n}}}, "images": {{}}, "tables": {{}}}}\n' for n in range(9))
    )
    server = Server(there)
    monkeypatch.setattr(wandb, "init", lambda **options: server)
    logger = journal(run, points=2)
    logger.log_metrics({"x": 2})
    logger.log_metrics({"x": 3})
    assert [point["x"] for point in server.sent] == expected == [p["trainer/point"] for p in server.sent]


def test_training_goes_on_without_wandb(tmp_path, monkeypatch):
    server = Server(-1)
    monkeypatch.setattr(wandb, "init", lambda **options: server)
    logger = journal(RunDirectory(tmp_path))
    monkeypatch.setattr(server, "log", lambda point: (_ for _ in ()).throw(BrokenPipeError("gone")))
    with pytest.warns(
        UserWarning, match=r"W&B takes no more points \(gone\); `cbam-lightning resume` sends them"
    ):
        logger.log_metrics({"x": 1})
    logger.log_metrics({"x": 2})
    assert len(RunDirectory(tmp_path).history.read_text().splitlines()) == 2
