"""Where runs are found."""

import pytest
import yaml

from cbam_lightning.errors import UsageError
from cbam_lightning.studies.compare.run_sources import find_runs
from tests.studies.compare.synthetic import write_run


def test_a_run_named_twice_is_read_once(tmp_path):
    path = write_run(tmp_path / "a")
    assert len(find_runs([str(tmp_path), str(path)])[0]) == 1


def test_a_folder_without_a_finished_run_is_refused(tmp_path):
    (write_run(tmp_path / "b") / "results.json").unlink()
    with pytest.raises(UsageError, match=r"holds no finished run\. .*b: it is not finished"):
        find_runs([str(tmp_path)])
    with pytest.raises(UsageError, match="neither a directory nor a results file"):
        find_runs([str(tmp_path / "nothing")])


def test_a_saved_file_of_wandb_is_no_run(tmp_path):
    path = write_run(tmp_path / "a")
    saved = path / "wandb" / "files"
    saved.mkdir(parents=True)
    (saved / "config.yaml").write_text(yaml.safe_dump({"wandb_version": 1}))
    assert len(find_runs([str(tmp_path)])[0]) == 1
