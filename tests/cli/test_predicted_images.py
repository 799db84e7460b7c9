"""``predict`` of a folder of images, on a machine without the data set that the network was trained on."""

import csv
import os
import shutil
from pathlib import Path

import pytest

from cbam_lightning.cli.home_folder import expand_values, expand_words
from tests.command import NO_WANDB, call
from tests.data.generate import write_image_folder

TRAINING = (
    "fit --data ImageFolder --data.root pets --data.size_px 24 --data.batch_size 16 --data.num_workers 0 "
    "--data.mean [0.4,0.5,0.6] --model.network resnet20 --model.network_options.depths [1,1,1] "
    f"--trainer.max_epochs 1 --trainer.enable_progress_bar false {NO_WANDB} --run.name pets"
)
CHECKPOINT = "--ckpt_path runs/default/pets/checkpoints/best.ckpt"


def predictions(*words):
    """Run ``predict``, and return the rows of its file."""
    shutil.rmtree("runs/predicted", ignore_errors=True)
    assert call("predict", *words, "--data.predict_path photos --run.experiment predicted", NO_WANDB) == 0
    (path,) = Path("runs/predicted").glob("*/predictions.csv")
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


@pytest.fixture
def photos():
    write_image_folder(Path("pets"))
    write_image_folder(Path(), ("photos",), 3)
    name = os.fsdecode(b"photos/b\xffd.jpg")
    shutil.copy("photos/000.jpg", name)


def test_predict_needs_no_training_images(photos):
    assert call(TRAINING) == 0
    with_data_set = predictions("--config runs/default/pets/config.yaml", CHECKPOINT)
    assert [row[0] for row in with_data_set[1:]] == [
        *(f"photos/{number:03d}.jpg" for number in range(3)),
        "photos/b\\udcffd.jpg",  # of a name that is no UTF-8
    ]
    assert {row[1] for row in with_data_set[1:]} <= {"cat", "dog", "fox"}
    shutil.rmtree("pets")
    assert predictions("--config runs/default/pets/config.yaml", CHECKPOINT) == with_data_set
    assert predictions(CHECKPOINT) == with_data_set
    export = "weights export runs/default/pets/checkpoints/best.ckpt pets.safetensors"
    assert call(export) == 0
    assert predictions("--model.weights pets.safetensors") == with_data_set


def test_images_to_predict_are_nothing_to_train_on(photos, capsys):
    words = (
        "--data UnlabelledImages --data.predict_path photos --model.network resnet20 --model.num_classes 3"
    )
    assert call("fit", words, NO_WANDB) == 2
    assert "these images have no classes, so they have no train split" in capsys.readouterr().err


def test_the_home_folder_is_found_in_words_and_configurations(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    words = ["fit", "--data.root=~/pets", "~/photos", "--x", "a~/b", "--y=a~/b", "~"]
    assert expand_words(words) == [
        *("fit", "--data.root=/home/ada/pets", "/home/ada/photos", "--x", "a~/b", "--y=a~/b", "~")
    ]
    values = {"data": {"root": "~/pets", "sizes": [1, "~/x"]}, "name": "a"}
    expand_values(values)
    assert values == {"data": {"root": "/home/ada/pets", "sizes": [1, "/home/ada/x"]}, "name": "a"}
