"""The command that explains, on the shipped networks and on files of a user."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from cbam_lightning.data import FashionMNIST
from cbam_lightning.explain.survey.votes import FORMAT, checksum, read_key
from cbam_lightning.models import create_model
from cbam_lightning.weights import Header, save_checkpoint
from tests.command import call

PLAIN = "resnet20.fashion_mnist"


def shipped_and_own():
    """Write a second network for the same images, with fresh values."""
    shipped = {"widths": (4, 6, 8), "depths": (1, 1, 1)}
    header = Header(
        "resnet20",
        "cbam",
        10,
        1,
        network_options={key: list(value) for key, value in shipped.items()},
        class_names=FashionMNIST.class_names,
        size_px=28,
        mean=(0.286,),
        std=(0.353,),
    )
    torch.manual_seed(0)
    network = create_model("resnet20", attention="cbam", num_classes=10, in_channels=1, **shipped)
    save_checkpoint("own.safetensors", network.state_dict(), header)


def test_two_networks_on_a_split(capsys):
    shipped_and_own()
    words = f"explain {PLAIN} mine=own.safetensors --data FashionMNIST --limit 6 --rows 2 --steps 4 --out out"
    assert call(words, "--batch-size 4") == 0
    printed = capsys.readouterr().out
    assert "Written: out/figure.png, out/report.html, out/explained.json" in printed
    found = json.loads(Path("out/explained.json").read_text())
    assert [network["label"] for network in found["networks"]] == [PLAIN, "mine"]
    assert len(found["images"]) == 6
    assert found["networks"][0]["figures"]["top1"]["mean"] > 0.8
    assert call(words) == 2
    assert "already exists" in capsys.readouterr().err


def test_images_of_the_user_for_a_class_of_the_user(capsys):
    Path("photos").mkdir()
    for shade in (0, 200):
        Image.new("RGB", (50, 40), (shade,) * 3).save(f"photos/{shade}.jpg")
    Path("masks").mkdir()
    Image.new("L", (50, 40), 255).save("masks/200.png")
    words = f"explain {PLAIN} --images photos --masks masks --target Bag --layer layer2 --steps 0 --out out"
    assert call(words) == 0
    first, second = json.loads(Path("out/explained.json").read_text())["images"]
    assert (first["image"], first["class"]) == ("photos/0.jpg", None)
    (look,) = second["networks"].values()
    assert look["target"] == "Bag"
    assert look["inside"] == pytest.approx(1.0)
    assert torch.tensor(look["map"]).shape == (14, 14)
    assert look["deletion"] is None


def test_a_survey_is_written_answered_and_counted(capsys):
    shipped_and_own()
    words = f"explain survey {PLAIN} mine=own.safetensors --data FashionMNIST --limit 4 --out survey"
    assert call(words) == 0
    assert "explain tally survey/key.json" in capsys.readouterr().out
    key = read_key(Path("survey/key.json"))
    answers = {
        number: next(token for token, network in question.options.items() if network == "mine")
        for number, question in key.questions.items()
    }
    assert len(answers) == 4
    content = {"format": FORMAT, "survey": key.survey, "voter": "v", "complete": True, "answers": answers}
    content["checksum"] = checksum(key.survey, "v", True, answers)
    Path("votes.json").write_text(json.dumps(content))
    assert call("explain tally survey/key.json votes.json --out counted") == 0
    assert "mine" in capsys.readouterr().out
    assert {path.name for path in Path("counted").iterdir()} == {"tally.md", "tally.csv", "tally.png"}
    assert call(words, "--only-right --out survey2") == 2  # the own network is right by chance at most
    assert "no image" in capsys.readouterr().err


MISTAKES = {
    f"explain {PLAIN} --out out": "give either --images PATH or --data NAME",
    f"explain {PLAIN} --data FashionMNIST --images x --out out": "give either --images PATH or --data NAME",
    f"explain {PLAIN} --data FashionMNISt --out out": "Did you mean 'FashionMNIST'",
    f"explain {PLAIN} --data FashionScenes --out out": "unknown data module 'FashionScenes'",
    f"explain {PLAIN} --data CIFAR10 --out out": "the networks expect other images or classes than CIFAR10",
    f"explain {PLAIN} --data ImageFolder --out out": "ImageFolder needs --root",
    f"explain {PLAIN} --data FashionMNIST --split train --out out": "unknown split 'train'",
    f"explain {PLAIN} --data FashionMNIST --target Bga --out out": "Did you mean 'Bag'",
    f"explain {PLAIN} --data FashionMNIST --layer layer33 --out out": "Did you mean 'layer3'",
    f"explain {PLAIN} --data FashionMNIST --limit 0 --out out": "limit",
    f"explain {PLAIN} --data FashionMNIST --steps -1 --out out": "--steps is -1",
    f"explain {PLAIN} {PLAIN} --data FashionMNIST --out out": "two networks are called",
    "explain nothing.safetensors --data FashionMNIST --out out": "nothing.safetensors",
    f"explain {PLAIN} --images nowhere --out out": "nowhere does not exist",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_told_in_a_line(words, capsys):
    assert call(words) == 2
    error = capsys.readouterr().err
    assert MISTAKES[words] in error
    assert len(error.strip().splitlines()) == 1
    assert not Path("out").exists()


def test_networks_for_other_images_are_not_compared(capsys):
    shipped_and_own()
    network = create_model("resnet20", num_classes=10, in_channels=3)
    header = Header("resnet20", "none", 10, 3, size_px=32)
    save_checkpoint("other.safetensors", network.state_dict(), header)
    assert call(f"explain {PLAIN} other.safetensors --data FashionMNIST --out out") == 2
    assert "size_px is 28 in the one and 32 in the other" in capsys.readouterr().err
