import os
import signal
import socket
import subprocess
import warnings

import numpy as np
import pytest
import wandb

from cbam_lightning.errors import UsageError
from cbam_lightning.runs.directory import RunDirectory
from cbam_lightning.runs.wandb_setup import WandbOptions, build_loggers, finish_wandb
from tests.runs.recordings import points, read_back


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
    # images and tables stay where they were logged
    assert not (folder / "files" / "media").exists()
    (before,) = (cut.path / "wandb" / "superseded").iterdir()
    for ending in ("*.png", "*.table.json"):
        assert len(list((before / "files" / "media").rglob(ending))) == 1


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


def kill_service():
    """Kill W&B's process, as a machine short of memory does."""
    found = subprocess.run(["pgrep", "-P", str(os.getpid()), "wandb-core"], capture_output=True, text=True)
    for number in map(int, found.stdout.split()):
        os.kill(number, signal.SIGKILL)
        # until it has died, which closes its connections; another may wait for it as well
        os.waitid(os.P_PID, number, os.WEXITED | os.WNOWAIT)
    assert found.stdout


def test_a_run_ends_well_if_the_service_of_wandb_was_killed(tmp_path):
    run = RunDirectory(tmp_path)
    logger = journal(run)
    log_all(logger, range(2))
    kill_service()
    with pytest.warns(UserWarning, match="W&B takes no more points"):
        log_all(logger, range(3, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is told once
        log_all(logger, range(4, 5))
        logger.log_hyperparams({"a": 1})
        logger.finalize("success")
        finish_wandb(0)
    assert wandb.run is None
    # the next run in this process has a service of its own, and all points
    log_all(journal(run, points=4), range(5, 6))
    finish_wandb(0)
    losses = [point.get("loss") for point in points(read_back(run.path)[1])]
    assert losses == [1, 1 / 2, 1 / 4, 1 / 5, 1 / 6]


def online(tmp_path, monkeypatch, error):
    """Return a journal whose run fails to start online, and what was asked of W&B."""
    asked = []

    def init(**options):
        asked.append(options["mode"])
        if options["mode"] != "offline":
            raise error
        return Server(-1)

    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("WANDB_MODE", "online")
        monkeypatch.setattr(wandb, "init", init)
        return journal(RunDirectory(tmp_path)), asked


def test_a_run_is_recorded_here_if_wandb_does_not_answer(tmp_path, monkeypatch):
    error = wandb.errors.CommError("Timed out initializing run: context deadline exceeded")
    logger, asked = online(tmp_path, monkeypatch, error)
    logger.log_metrics({"x": 1})
    assert asked == [None, "offline"]
    assert [point["x"] for point in logger.experiment.sent] == [1]


def test_what_wandb_refuses_is_an_error(tmp_path, monkeypatch):
    error = wandb.errors.AuthenticationError("the API key is not valid")
    logger, asked = online(tmp_path, monkeypatch, error)
    with pytest.raises(UsageError, match=r"W&B: the API key is not valid\. Set WANDB_MODE=offline"):
        logger.log_hyperparams({"x": 1})
    assert asked == [None]
