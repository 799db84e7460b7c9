import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from cbam_lightning.runs.directory import RunDirectory
from cbam_lightning.runs.wandb_setup import WandbOptions, build_loggers, is_offline
from cbam_lightning.tasks import Classifier
from cbam_lightning.weights import load_checkpoint
from tests.command import NO_WANDB, SHORT, SMALL, call, only_run
from tests.runs.recordings import WANDB, config, history, read_back


def test_an_offline_run_holds_config_metrics_and_media(capsys):
    assert (
        call("fit", SMALL, SHORT, "--trainer.log_every_n_steps 1 --wandb.tags '[a,b]' --wandb.notes why") == 0
    )
    printed = capsys.readouterr().out
    run = only_run()
    folder, records = read_back(run)

    (start,) = [r["run"] for r in records if "run" in r and "project" in r["run"]][:1]
    assert start["run_id"] == run.name
    assert start["project"] == "cbam_lightning"
    assert start["run_group"] == "default"
    assert start["job_type"] == "fit"
    assert start["tags"] == ["a", "b"]
    assert start["notes"] == "why"

    saved = yaml.safe_load((run / "config.yaml").read_text())
    sent = config(records)
    assert sent["model"]["init_args"] == saved["model"]["init_args"]
    assert sent["data"] == saved["data"]
    assert sent["trainer"]["max_epochs"] == 1
    total = sum(
        v.numel()
        for k, v in load_checkpoint(run / "checkpoints/best.ckpt").state_dict.items()
        if "bn" not in k
    )
    assert sent["parameters"]["total"] == sent["parameters"]["trainable"] > total * 0.9

    logged = history(records)
    results = json.loads((run / "results.json").read_text())["metrics"]
    assert logged["test/top1"] == [pytest.approx(results["test/top1"])]
    assert len(logged["train/loss"]) == 3
    assert len(logged["lr-SGD"]) == 3
    assert len(logged["val/top1"]) == 1
    for key in ("val/predictions", "val/confusion_matrix", "test/predictions", "test/confusion_matrix"):
        assert logged[f"{key}._type"] == ["images/separated"]
    pictures = sorted((folder / "files" / "media" / "images").rglob("*.png"))
    assert len(pictures) == 4
    for path in pictures:
        with Image.open(path) as image:
            assert min(image.size) > 100
    tables = {
        p.parent.name + "/" + p.name.split("_table")[0]: p for p in (folder / "files").rglob("*.table.json")
    }
    rows = json.loads(tables["test/confusion"].read_text())
    assert rows["columns"] == ["class", "prediction", "images"]
    assert sum(row[2] for row in rows["data"]) == 3 * 64
    assert len(json.loads(tables["test/predictions"].read_text())["data"]) == 16

    (command,) = re.findall(r"upload it with: (\S*wandb sync .*)", printed)
    words = [*WANDB, *shlex.split(command)[1:], "--dry-run", "--yes"]
    synced = subprocess.run(words, capture_output=True, text=True, check=False)
    assert f"run-{run.name}.wandb" in synced.stdout + synced.stderr


def test_two_runs_do_not_collide():
    for _ in range(2):
        assert call("fit", SMALL, SHORT) == 0
    runs = list(Path("runs/default").iterdir())
    assert len(runs) == 2
    assert {read_back(run)[1][1]["run"]["run_id"] for run in runs} == {run.name for run in runs}
    for run in runs:
        assert (run / "config.yaml").is_file()
        assert (run / "checkpoints" / "best.ckpt").is_file()


def test_switched_off_nothing_of_wandb_is_written(tmp_path):
    assert call("fit", SMALL, SHORT, NO_WANDB) == 0
    assert not list(tmp_path.rglob("*wandb*"))
    assert (only_run() / "metrics.csv").is_file()


# wandb keeps what it has found out, so each question has a process of its own
ASK = """
import json, os, sys
from cbam_lightning.runs.wandb_setup import is_offline
for variables in json.loads(sys.argv[1]):
    if os.fork() == 0:
        os.environ.update(variables)
        print(is_offline(), flush=True)
        os._exit(0)
    os.wait()
"""


def test_the_run_is_offline_exactly_when_there_is_no_key(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_MODE")
    assert is_offline()
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine api.wandb.ai\n  login user\n  password {'0' * 40}\n")
    netrc.chmod(0o600)
    cases = (
        ({"WANDB_API_KEY": "0" * 40}, "False"),
        ({"NETRC": str(netrc)}, "False"),
        ({"NETRC": str(netrc), "WANDB_MODE": "offline"}, "True"),
        ({"WANDB_MODE": "online"}, "False"),
    )
    words = [sys.executable, "-c", ASK, json.dumps([variables for variables, _ in cases])]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-4:] == [expected for _, expected in cases]


def test_the_options_reach_wandb(tmp_path):
    options = WandbOptions(project="p", entity="e", group="g", log_model=True)
    wandb_logger, metrics_file = build_loggers(RunDirectory(tmp_path), "x/y", options, "test")
    sent = wandb_logger._wandb_init
    assert (sent["project"], sent["entity"], sent["group"], sent["name"]) == ("p", "e", "g", "x/y")
    assert (sent["id"], sent["dir"], sent["job_type"]) == (tmp_path.name, str(tmp_path), "test")
    # checkpoints cannot be uploaded without a connection
    assert sent["mode"] == "offline"
    assert wandb_logger._log_model is False
    assert Path(metrics_file.save_dir) == tmp_path


def test_a_run_that_fails_is_shown_as_failed(monkeypatch):
    def fail(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Classifier, "on_train_epoch_end", fail)
    assert call("fit", SMALL, SHORT) == 1
    _, records = read_back(only_run())
    (end,) = [record["exit"] for record in records if "exit" in record]
    assert end["exit_code"] == 1
