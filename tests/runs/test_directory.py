import re

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
