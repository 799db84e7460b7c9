import re
import subprocess
import sys

import pytest
from pytorch_lightning.utilities import rank_zero_only

from cbam_lightning.errors import UsageError
from cbam_lightning.runs.directory import RunDirectory, experiment_name


@pytest.mark.parametrize(
    ("configs", "name"),
    [
        ([], "default"),
        (["experiments/cifar10/resnet20_cbam.yaml"], "cifar10/resnet20_cbam"),
        (["/a/experiments/b/experiments/c/d.yaml", "experiments/with/ddp.yaml"], "c/d"),
        (["mine/a.yaml"], "a"),
        (["experiments.yaml"], "experiments"),
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
    code = "import sys; from cbam_lightning.runs.directory import RunDirectory; from pathlib import Path; "
    code += "RunDirectory(Path(sys.argv[1])).occupy(); print('in', flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "in\n"
    with pytest.raises(UsageError, match=r"another process is training in .*; stop it first"):
        run.occupy()
    other.kill()
    other.wait()
    run.occupy()
    run.occupy()  # the same process may


def test_a_run_with_a_name_of_the_user_has_an_id_of_its_own(tmp_path, monkeypatch):
    runs = [RunDirectory.create(str(tmp_path), experiment, "again") for experiment in ("a", "b", "a")]
    assert runs[0].path == runs[2].path == tmp_path / "a" / "again"
    assert runs[0].id == runs[2].id != runs[1].id
    assert all(run.id.startswith("again-") for run in runs)
