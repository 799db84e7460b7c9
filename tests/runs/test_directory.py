import gc
import io
import re
import subprocess
import sys

import pytest
import wandb
from pytorch_lightning.utilities import rank_zero_only

from cbam_lightning.errors import UsageError
from cbam_lightning.runs import names
from cbam_lightning.runs.directory import RunDirectory, experiment_name
from cbam_lightning.runs.names import check_names


@pytest.mark.parametrize(
    ("configs", "name"),
    [
        ([], "default"),
        (["experiments/cifar10/resnet20_cbam.yaml"], "cifar10/resnet20_cbam"),
        (["/a/experiments/b/experiments/c/d.yaml", "experiments/with/ddp.yaml"], "c/d"),
        (["mine/a.yaml"], "a"),
        (["experiments.yaml"], "experiments"),
        (["experiments/../a.yaml"], "a"),
        (["experiments/b/../../../out/a.yaml"], "a"),
        (["läufe/a b.v2.yaml"], "a b.v2"),
    ],
)
def test_a_run_is_named_after_its_first_file(configs, name):
    assert experiment_name(configs) == name


def test_every_run_gets_a_directory_of_its_own(tmp_path):
    runs = [RunDirectory.create(str(tmp_path), "a/b") for _ in range(20)]
    assert len({run.path for run in runs}) == 20
    for run in runs:
        assert run.path.is_dir()
        assert re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{6}", run.id)
        assert run.path.parent == tmp_path / "a" / "b"


def test_other_processes_use_the_directory_of_the_first(tmp_path, monkeypatch):
    first = RunDirectory.create(str(tmp_path), "a")
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert RunDirectory.create(str(tmp_path), "a") == RunDirectory(first.path.absolute())
    monkeypatch.delenv("CBAM_LIGHTNING_RUN")
    assert not RunDirectory.create(str(tmp_path), "a").path.exists()


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"no config\.yaml"):
        RunDirectory.open(tmp_path)


def test_two_processes_do_not_train_in_one_directory(tmp_path):
    run = RunDirectory(tmp_path)
    assert not run.is_occupied
    code = "import sys; from cbam_lightning.runs.directory import RunDirectory; from pathlib import Path; "
    code += "RunDirectory(Path(sys.argv[1])).occupy(); print('in', flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "in\n"
    assert run.is_occupied
    with pytest.raises(UsageError, match=r"another process is training in .*; stop it first"):
        run.occupy()
    other.kill()
    other.wait()
    assert (run.is_occupied, run.ending) == (False, "")
    run.occupy()
    run.occupy()  # the same process may
    files = [thing for thing in gc.get_objects() if type(thing) is io.TextIOWrapper]
    assert not [file for file in files if str(file.name).endswith(".occupied")]  # Python would warn of it


def test_how_a_training_ended_is_kept_until_the_next_one(tmp_path):
    run = RunDirectory(tmp_path)
    assert run.ending == ""
    run.note_ending("stopped")
    assert run.ending == "stopped"
    run.occupy()
    assert run.ending == ""
    RunDirectory(tmp_path / "gone").note_ending("failed")  # the folder of a run that never began
    assert not (tmp_path / "gone").exists()


def test_a_run_with_a_name_of_the_user_has_an_id_of_its_own(tmp_path, monkeypatch):
    runs = [RunDirectory.create(str(tmp_path), experiment, "again") for experiment in ("a", "b", "a")]
    assert runs[0].path == runs[2].path == tmp_path / "a" / "again"
    assert runs[0].id == runs[2].id != runs[1].id
    assert all(run.id.startswith("again-") for run in runs)


@pytest.mark.parametrize(
    "name", ["lr=0.1", "a b", "läufe", "x" * 200, "日本", "a:b#c%[1]*{x}", ".hidden", "1e3", "~"]
)
def test_a_folder_keeps_the_name_and_wandb_gets_one_that_it_allows(tmp_path, name):
    check_names(str(tmp_path), "a/b", name)
    run = RunDirectory.create(str(tmp_path), "a/b", name)
    assert run.path == tmp_path / "a" / "b" / name
    assert run.path.is_dir()
    artifact = wandb.Artifact(f"config-{run.id}", type="config")
    settings = wandb.Settings(run_id=run.id)
    assert artifact.name.startswith("config-")
    assert settings.run_id == run.id == RunDirectory(run.path).id
    assert run.id != RunDirectory.create(str(tmp_path), "c", name).id


def test_a_run_keeps_its_id_if_its_folder_is_renamed(tmp_path):
    run = RunDirectory.create(str(tmp_path), "a")
    run.keep_id()
    renamed = RunDirectory(run.path.rename(tmp_path / "b c"))
    assert renamed.id == run.path.name


FAULTS = {
    "": "it is empty",
    " ": "it is empty",
    ".": "stands for another folder",
    "..": "stands for another folder",
    "a/b": "has a slash",
    "../a": "has a slash",
    ":#/": "has a slash",
    "a\\b": "has a slash",
    "a\nb": "cannot be printed",
    "a\x1b[31m": "cannot be printed",
    "a\udcff": "cannot be printed",
    "a\0": "cannot be printed",
    " a": "space",
    "-a": "take it for an option",
    "zip::a": "remote file",
    "ä" * 200: "longer than 255 bytes",
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_name_that_cannot_be_one_folder_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match=f"{FAULTS[name]}.*--run.name"):
        check_names(str(tmp_path), "a", name)


@pytest.mark.parametrize("name", ["NUL", "com1.yaml", "a:b", "a?", "a."])
def test_a_name_that_windows_forbids_is_refused_there(tmp_path, monkeypatch, name):
    check_names(str(tmp_path), "a", name)
    monkeypatch.setattr(names, "_ON_WINDOWS", True)
    with pytest.raises(UsageError, match="Windows forbids it"):
        check_names(str(tmp_path), "a", name)


@pytest.mark.parametrize("experiment", ["", ".", "..", "../a", "a/../../b", "/a", "a/-b", "a\nb"])
def test_an_experiment_that_is_not_below_the_root_is_refused(tmp_path, experiment):
    with pytest.raises(UsageError, match=r"--run\.experiment"):
        check_names(str(tmp_path), experiment)


def test_a_root_that_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for root, experiment, name in (("file", "a", None), (".", "file", None), (".", "file", "a")):
        with pytest.raises(UsageError, match="file is a file"):
            check_names(root, experiment, name)
    for root in ("-a", "a\nb", "a::b"):
        with pytest.raises(UsageError, match=r"--run\.root"):
            check_names(root, "a")


def test_the_home_folder_has_a_short_name(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert RunDirectory.create("~/runs", "a").path.parent == tmp_path / "runs" / "a"
