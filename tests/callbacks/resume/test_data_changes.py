"""A run that is resumed on other images says so, and stops before anything is trained or written."""

import contextlib
import hashlib
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from pytorch_lightning import Trainer

from cbam_lightning.callbacks.resume.data_changes import DataChanges
from cbam_lightning.data import ImageFolder
from cbam_lightning.errors import RunStopped, UsageError
from tests.callbacks.resume.interrupting import SendSignal, at
from tests.callbacks.resume.test_changed_runs import Data, Record, Tiny, new_run, train
from tests.command import NO_WANDB, call
from tests.data.generate import patches, save_image, write_image_folder

FIT = (
    "fit --data ImageFolder --data.root pets --data.size_px 32 --data.batch_size 8 --data.num_workers 0 "
    "--model.network resnet20 --model.network_options.depths [1,1,1] "
    "--model.network_options.widths [4,8,16] --trainer.max_epochs 4 --run.test_after_fit false "
    "--trainer.enable_progress_bar false --trainer.enable_model_summary false --run.name pets " + NO_WANDB
)
RUN = Path("runs/default/pets")
CHANGED = "the run was trained with other images ({}). It may have been trained on some that are held out now"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Stop a run in the middle of its second epoch; return the folder of its images and its runs."""
    folder = tmp_path_factory.mktemp("original")
    with contextlib.chdir(folder):
        write_image_folder(Path("pets"), ("cat", "dog"), images_per_class=32)
        assert call(FIT, at(SendSignal, 1, 2)) == 143
    return folder


@pytest.fixture
def stopped(original):
    shutil.copytree(original, ".", dirs_exist_ok=True)
    return RUN


def add_image(name="new.jpg"):
    save_image(patches(1, 40, 52)[0], Path("pets", "cat", name))


def content(run):
    # .occupied says how the last process ended
    files = (path for path in run.rglob("*") if path.is_file() and path.name != ".occupied")
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def saved(run):
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.mark.parametrize("again", ["resume runs/default/pets", FIT])
def test_an_added_image_is_told_and_refused_before_anything_is_written(stopped, capsys, again):
    before = content(stopped)
    add_image()
    assert call(again) == 2
    assert CHANGED.format("train: 52 before, 53 now") in capsys.readouterr().err
    assert content(stopped) == before
    Path("pets", "cat", "new.jpg").unlink()
    assert call(again) == 0
    assert saved(stopped)["epoch"] == 4


@pytest.mark.filterwarnings("ignore:the run goes on with other images")
def test_it_goes_on_with_other_images_when_asked_for_once(stopped, capsys):
    add_image()
    assert call("resume", stopped, "--run.changed_data true --trainer.max_epochs 2") == 0
    assert yaml.safe_load((stopped / "config.yaml").read_text())["run"]["changed_data"] is False
    assert saved(stopped)["callbacks"]["Survival"]["data"]["train"]["images"] == 53
    # what was asked for is the state of the run now, and another change is another question
    assert call("resume", stopped, "--trainer.max_epochs 3") == 0
    add_image("newer.jpg")
    capsys.readouterr()
    assert call("resume", stopped, "--trainer.max_epochs 4") == 2
    assert CHANGED.format("train: 53 before, 54 now") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("--data.split_seed 1", "train: 52 as before, but not the same; val: 6 as before, but not the same"),
        ("--data.val_fraction 0.2", "train: 52 before, 46 now; val: 6 before, 12 now"),
        ("--data.images_per_class 10", "train: 52 before, 20 now"),
    ],
)
def test_options_that_change_the_images_count_too(stopped, capsys, change, told):
    before = content(stopped)
    assert call("resume", stopped, change) == 2
    assert CHANGED.format(told) in capsys.readouterr().err
    assert content(stopped) == before


def test_another_run_from_its_checkpoint_is_no_way_around(stopped, capsys):
    add_image()
    words = FIT.replace("--run.name pets", f"--run.name branch --ckpt_path {stopped}/checkpoints/last.ckpt")
    assert call(words) == 2
    assert CHANGED.format("train: 52 before, 53 now") in capsys.readouterr().err
    assert not Path("runs/default/branch").exists()


def test_a_folder_that_was_moved_has_the_same_images(stopped):
    Path("pets").rename("animals")
    assert call("resume", stopped, "--data.root animals") == 0


@pytest.mark.parametrize(("parts", "refused"), [([""], True), (["train", "val", "test"], False)])
def test_what_an_older_version_held_out_is_not_known(parts, refused):
    for part in parts:
        write_image_folder(Path("pets", part), images_per_class=4)
    changes, trainer = DataChanges(allowed=False), Trainer(logger=False, accelerator="cpu")
    trainer.datamodule = ImageFolder("pets")
    changes.read(trainer)
    with (
        pytest.raises(UsageError, match=r"other images \(an older version held out others\)")
        if refused
        else contextlib.nullcontext()
    ):
        changes.compare(trainer, {})


@pytest.mark.parametrize("plain", [True, False])
def test_of_other_data_modules_the_lengths_are_compared(plain):
    run = new_run()
    with pytest.raises(RunStopped):
        train(run, Tiny(), Data(plain=plain), Record(12))
    for count in (56, 72):
        with pytest.raises(UsageError, match=rf"trained with other images \(train: 64 before, {count} now\)"):
            train(run, Tiny(), Data(plain=plain, count=count), record := Record())
        assert record.seen == []
    train(run, Tiny(), Data(plain=plain), record := Record())
    assert len(record.seen) == 64 * 4 - 12 * 8


def test_data_that_are_loaded_anew_in_every_epoch_may_have_any_length():
    run, options = new_run(), {"reload_dataloaders_every_n_epochs": 1}
    with pytest.raises(RunStopped):
        train(run, Tiny(), Data(), Record(16), **options)
    train(run, Tiny(), Data(count=72), Record(), **options)
