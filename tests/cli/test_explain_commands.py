"""The command that explains, on the shipped networks and on files of a user."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from cbam_lightning.data import FashionMNIST
from cbam_lightning.data.class_folders import IMAGENET_MEAN, IMAGENET_STD
from cbam_lightning.explain.survey.votes import FORMAT, checksum, read_key
from cbam_lightning.models import create_model
from cbam_lightning.weights import Header, load_checkpoint, save_checkpoint
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


def of_other_code(name, network):
    """Write a file as `weights import` does for weights of other than 1000 classes."""
    torch.manual_seed(0)
    built = create_model(network, num_classes=7)
    save_checkpoint(f"{name}.safetensors", built.state_dict(), Header(network, "none", 7, 3))


def photographs(*names, folder="photos"):
    Path(folder).mkdir(exist_ok=True)
    for shade, name in enumerate(names):
        Image.new("RGB", (50, 40), (40 * shade,) * 3).save(f"{folder}/{name}")


def explained(folder="out"):
    return json.loads(Path(folder, "explained.json").read_text())


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


def test_masks_that_measure_nothing_lower_no_mean(capsys):
    photographs(*(f"{name}.png" for name in ("whole", "half", "empty", "lost", "bad", "without")))
    Path("masks").mkdir()
    for name, columns in {"whole": 50, "half": 25, "empty": 0, "lost": 1}.items():
        mask = Image.new("L", (50, 40), 0)
        mask.paste(255, (0, 0, columns, 40))
        mask.save(f"masks/{name}.png")
    Path("masks/bad.png").write_bytes(b"")
    assert call(f"explain {PLAIN} --images photos --masks masks --steps 0 --out out") == 0
    found = explained()
    inside = {Path(one["image"]).stem: one["networks"][PLAIN]["inside"] for one in found["images"]}
    measured = {name: value for name, value in inside.items() if value is not None}
    assert measured.keys() == {"whole", "half"}
    figure = found["networks"][0]["figures"]["inside"]
    assert figure["images"] == 2
    assert figure["mean"] == pytest.approx(sum(measured.values()) / 2)
    reasons = {Path(one["image"]).stem: one["unmasked"] for one in found["images"]}
    assert reasons["half"] is None
    assert reasons["empty"] == "the mask holds no object"
    assert reasons["lost"] == "the object is lost when the image is resized and cropped"
    assert reasons["without"] == "there is no file"
    assert reasons["bad"].startswith("the file cannot be read: masks/bad.png")
    printed = capsys.readouterr()
    (line,) = [line for line in printed.out.splitlines() if line.startswith("Without a mask")]
    assert line.startswith("Without a mask: 4 of 6 images (")
    assert line.count("1: ") == 4
    assert "The mask holds the whole image: 1 of 6 images." in printed.out
    assert (
        "the mask masks/bad.png: not an image of a known format; photos/bad.png is explained" in printed.err
    )


def test_bad_images_among_good_ones_are_skipped_and_told(capsys):
    photographs("a.jpg", "b.png", "c.jpg")
    cut = Path("photos/c.jpg").read_bytes()
    Path("photos/c.jpg").write_bytes(cut[: len(cut) // 2])
    Path("photos/empty.png").touch()
    Path("photos/notes.txt").write_text("x")
    Path("photos/gone.jpg").symlink_to("nowhere.jpg")
    assert call(f"explain {PLAIN} --images photos --steps 0 --batch-size 1 --out out") == 0
    found = explained()
    bad = ["photos/gone.jpg", "photos/c.jpg", "photos/empty.png", "photos/notes.txt"]
    assert [one["image"] for one in found["images"]] == ["photos/a.jpg", "photos/b.png"]
    assert list(found["skipped"]) == bad
    printed = capsys.readouterr()
    assert "Skipped: 4 of 6 images, which cannot be read." in printed.out
    lines = [line for line in printed.err.splitlines() if "skipped" in line]
    assert lines == [f"cbam-lightning: skipped {name}: {found['skipped'][name]}." for name in bad]
    shipped_and_own()
    words = f"explain survey {PLAIN} own.safetensors --images photos --target Bag --out survey"
    assert call(words) == 0
    assert "Skipped: 4 of 6 images" in capsys.readouterr().out
    assert len(read_key(Path("survey/key.json")).questions) == 2
    for name in ("a.jpg", "b.png"):
        Path("photos", name).write_bytes(b"no image")
    assert call(f"explain {PLAIN} --images photos --out none") == 2
    assert "error: none of the 6 images can be read; photos/gone.jpg: No such file" in capsys.readouterr().err
    assert not any(Path("none").iterdir())


def test_a_class_is_named_by_its_number_too():
    shipped_and_own()
    header, network = load_checkpoint("own.safetensors").header, create_model(weights="own.safetensors")
    names = [str(9 - label) for label in range(10)]
    save_checkpoint("numbers.safetensors", network.state_dict(), replace(header, class_names=tuple(names)))
    photographs("a.jpg")
    for source, target, name in (
        (PLAIN, "8", "Bag"),
        (PLAIN, "Bag", "Bag"),
        ("numbers.safetensors", "8", "8"),
    ):
        out = f"out_{source}_{target}"
        assert call(f"explain {source} --images photos --target {target} --steps 0 --out {out}") == 0
        (seen,) = explained(out)["images"][0]["networks"].values()
        assert seen["target"] == name


@pytest.mark.parametrize("network", ["torchvision/mobilenet_v3_small", "resnet18"])
def test_a_size_that_no_header_states_is_given(network, capsys):
    of_other_code("seven", network)
    photographs("a.jpg")
    words = "explain seven.safetensors --images photos --steps 0"
    with pytest.warns(UserWarning, match="does not say how its images are normalised; taken are mean 0.485"):
        assert call(f"{words} --size-px 64 --out out") == 0
    (seen,) = explained()["images"][0]["networks"].values()
    assert torch.tensor(seen["map"]).shape == (2, 2)
    pixels = torch.zeros(1, 3, 64, 64)  # the photograph is black
    normalised = (pixels - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[
        :, None, None
    ]
    with torch.no_grad():
        probability = create_model(weights="seven.safetensors").eval()(normalised).softmax(1).max()
    assert seen["confidence"] == pytest.approx(float(probability), rel=1e-4)


def test_a_given_size_counts_and_differs_from_the_header_with_a_word():
    shipped_and_own()
    photographs("a.jpg")
    with pytest.warns(UserWarning, match="own was trained on images of 28 px and is shown 56 px"):
        assert call("explain own=own.safetensors --images photos --size-px 56 --steps 0 --out out") == 0
    (seen,) = explained()["images"][0]["networks"].values()
    assert torch.tensor(seen["map"]).shape == (14, 14)


def test_right_answers_need_classes(capsys):
    shipped_and_own()
    photographs("a.jpg")
    assert call(f"explain survey {PLAIN} own.safetensors --images photos --only-right --out survey") == 2
    assert "--only-right needs the classes of the images" in capsys.readouterr().err


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
    f"explain {PLAIN} --data FashionMNIST --target 10 --out out": "a number from 0 to 9",
    f"explain {PLAIN} --data FashionMNIST --target -1 --out out": "a number from 0 to 9",
    f"explain {PLAIN} --data FashionMNIST --layer fc --out out": (
        "Grad-CAM cannot explain the layer 'fc', which returns a tensor of shape (1, 10), not a feature map. "
        "Name a layer such as"
    ),
    f"explain {PLAIN} --data FashionMNIST --size-px 0 --out out": "size_px is 0",
    f"explain {PLAIN} --data FashionMNIST --masks nowhere --out out": "--masks nowhere is not a folder",
    f"explain {PLAIN} --data ImageNet --root nowhere --out out": "with --root",
    "explain IMAGENET1K_V1 --images x --out out": "resnet20_se.fashion_mnist. Or give the path of a file.",
    "explain tiny=squeeze.safetensors --images x --size-px 2 --out out": "does not run on images of 2 px",
    "explain sized.safetensors --images x --out out": "give their height and width in pixels with --size-px",
    f"explain {PLAIN} --data FashionMNIST --layer layer33 --out out": "Did you mean 'layer3'",
    f"explain {PLAIN} --data FashionMNIST --limit 0 --out out": "limit",
    f"explain {PLAIN} --data FashionMNIST --steps -1 --out out": "--steps is -1",
    f"explain {PLAIN} {PLAIN} --data FashionMNIST --out out": "two networks are called",
    "explain nothing.safetensors --data FashionMNIST --out out": "nothing.safetensors",
    f"explain {PLAIN} --images nowhere --out out": "nowhere does not exist",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_told_in_a_line(words, capsys):
    if "squeeze." in words:
        of_other_code("squeeze", "torchvision/squeezenet1_1")
    if "sized." in words:
        of_other_code("sized", "torchvision/mobilenet_v3_small")
    assert call(words) == 2
    error = capsys.readouterr().err
    assert MISTAKES[words] in error
    assert "--data." not in error
    assert len(error.strip().splitlines()) == 1
    assert not Path("out").exists()


def test_networks_for_other_images_are_not_compared(capsys):
    shipped_and_own()
    network = create_model("resnet20", num_classes=10, in_channels=3)
    header = Header("resnet20", "none", 10, 3, size_px=32)
    save_checkpoint("other.safetensors", network.state_dict(), header)
    assert call(f"explain {PLAIN} other.safetensors --data FashionMNIST --out out") == 2
    error = capsys.readouterr().err
    assert "size_px is 28 in the one and 32 in the other. Give one for all with --size-px." in error
