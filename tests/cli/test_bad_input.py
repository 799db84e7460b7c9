"""Every mistake ends in one line that names the thing and the way out, with exit code 2; nothing is lost."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.command import NO_WANDB, SHORT, SMALL, call, only_run
from tests.data.generate import write_image_folder
from tests.processes import start, wait

IMAGES = (
    "--data ImageFolder --data.root images --data.size_px 16 --data.batch_size 4 --model.network resnet20"
)
FEW_SCENES = "--data.num_images 4 --data.num_test_images 2 --data.num_workers 0"


def one_line(capsys):
    text = capsys.readouterr().err
    lines = [line for line in text.splitlines() if line.startswith("cbam-lightning: error: ")]
    assert len(lines) == 1, text
    assert "Traceback" not in text
    assert text.splitlines()[-1] == lines[0]
    return lines[0]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (f"fit {SMALL} ''", ["unknown option ''"]),
        ("tets", ["unknown command 'tets'", "Did you mean 'test'"]),
        ("--bogus", ["--bogus"]),
        (
            "models --plces",
            ["unknown argument '--plces'. Did you mean '--places'? See `cbam-lightning models --help`."],
        ),
        ("table --size-px", ["--size-px", "expected one argument"]),
        ("weights", ["action"]),
        ("weights export a", ["OUT.safetensors"]),
        ("weights show nothing.ckpt", ["nothing.ckpt", "there is no checkpoint file"]),
        ("weights export nowhere out.safetensors", ["nowhere"]),
        ("benchmark loop --steps 0", ["steps is 0", "at least 1"]),
        (f"fit {SMALL} --model.attention cbma", ["unknown attention 'cbma'", "'cbam'"]),
        (f"fit {SMALL} --model.network resnet21", ["unknown model 'resnet21'", "Did you mean 'resnet"]),
        (f"fit {SMALL} --model.attention_options.redution 8", ["'redution'", "'reduction'"]),
        (f"fit {SMALL} --model.attention_options.reduction 0", ["reduction is 0", "at least 1"]),
        (f"fit {SMALL} --model.network_options.stm cifar", ["'stm'", "'stem'"]),
        (f"fit {SMALL} --model.network_options.num_classes 5", ["'num_classes'", "separate argument"]),
        (f"fit {SMALL} --model.network_options.depths 3", ["depths is 3", "one number for each stage"]),
        (f"fit {SMALL} --model.attention_options.channels 4", ["'channels'", "reduction"]),
        (f"fit {SMALL} --model.attention_options.pools 5", ["pools is 5", "avg, max"]),
        (f"fit {SMALL} --model.atention cbam", ["'atention'", "'attention'"]),
        (f"fit {SMALL} --model.optimizer SDG", ["'SDG'", "'SGD'"]),
        (f"fit {SMALL} --model.optimizer.lrr 1", ["'lrr'", "'lr'"]),
        (f"fit {SMALL} --model.schedule Cosine", ["'Cosine'", "'WarmupCosine'"]),
        (f"fit {SMALL} --model.schedule.warmup_epochs 1", ["name it first", "WarmupCosine"]),
        (f"fit {SMALL} --model.label_smoothing 1.5", ["label_smoothing is 1.5", "0 or more"]),
        (f"fit {SMALL} --model.freeze stem*", ["stem*", "layer1"]),
        (f"fit {SMALL} --model.freeze *", ["frozen", "--model.freeze"]),
        (f"fit {SMALL} --trainer.accelerator gpu", ["gpu"]),
        (f"fit {SMALL} {SHORT} --checkpoint.monitor val/acc", ["val/acc", "val/top1"]),
        (f"fit {SMALL} --trainer.max_epoch 3", ["--trainer.max_epoch", "--trainer.max_epochs"]),
        (f"fit {SMALL} --trainer.max_epochs three", ["--trainer.max_epochs", "three", "int"]),
        (f"fit {SMALL} --trainer.max_epochs=-1", ["max_epochs"]),
        (f"fit {SMALL} --data.batch_size 0", ["batch_size is 0", "1 or more"]),
        (f"fit {SMALL} --data.batch_size x", ["--data.batch_size", "'x'", "int"]),
        (f"fit {SMALL} --data.source ful", ["--data.source", "embedded", "full"]),
        (f"fit {SMALL} --data FashionMINST", ["'FashionMINST'", "'FashionMNIST'"]),
        ("fit --model.network resnet20", ["--data"]),
        ("fit --data.root folder --data ImageNet", ["'root'", "name the class first, --data NAME"]),
        ("fit --data FashionMNIST", ["network", "cbam-lightning models"]),
        ("fit --config nofile.yaml", ["nofile.yaml", "no configuration file"]),
        (f"fit {SMALL} --ckpt_path no.ckpt", ["no.ckpt", "there is no checkpoint file"]),
        (f"fit {SMALL} --model.weights no.safetensors", ["no.safetensors", "there is no checkpoint file"]),
        ("fit --model.network resnet20 --data CIFAR10 --data.root none", ["none", "--data.download true"]),
        ("fit --model.network resnet20 --data ImageNet --data.root none", ["none"]),
        ("fit --model.network resnet20 --data ImageFolder --data.root none", ["none"]),
        (f"fit --data FashionScenes {FEW_SCENES} --model.network resnet20", ["--model Detector"]),
        (f"fit {SMALL} --model Detector --model.network stairnet_resnet20", ["--model Classifier"]),
        ("fit --data FashionScenes --model Detector --model.network stairnet_vgg61", ["'stairnet_vgg16'"]),
    ],
)
def test_a_mistake_on_the_command_line(words, expected, capsys, tmp_path):
    assert call(words, NO_WANDB if words.startswith("fit") else "") == 2
    line = one_line(capsys)
    for part in expected:
        assert part in line, line
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("modle: {class_path: Classifier}", ["modle"]),
        ("trainer: {max_epoch: 3}", ["trainer.max_epoch", "trainer.max_epochs"]),
        ("model: {class_path: Classifier, init_args: {attentoin: se}}", ["'attentoin'", "'attention'"]),
        ("data: {class_path: FashionMNIST, init_args: {sauce: full}}", ["'sauce'", "'source'"]),
        ("model: [unclosed", ["bad.yaml", "not valid YAML"]),
        ("\x00\x01binary", ["bad.yaml"]),
        ("!!python/object/apply:os.system ['touch ran']", ["bad.yaml"]),
    ],
)
def test_a_mistake_in_a_configuration_file(text, expected, capsys, tmp_path):
    (tmp_path / "bad.yaml").write_text(text)
    assert call("fit --config bad.yaml", SMALL, NO_WANDB) == 2
    line = one_line(capsys)
    for part in expected:
        assert part in line, line
    assert not (tmp_path / "ran").exists()


def _empty_class(root):
    (root / "owl").mkdir()


def _text_file(root):
    (root / "cat" / "notes.txt").write_text("hello")


def _not_an_image(root):
    (root / "cat" / "000.jpg").write_text("hello")


def _truncated(root):
    path = root / "cat" / "000.jpg"
    path.write_bytes(path.read_bytes()[:-300])


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (_empty_class, "owl"),
        (_text_file, "notes.txt"),
        (_not_an_image, "000.jpg"),
        (_truncated, "000.jpg"),
    ],
)
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bad_image_stops_the_run_with_its_path(damage, expected, num_workers, capsys, tmp_path):
    damage(write_image_folder(tmp_path / "images", images_per_class=6))
    arguments = f"--data.num_workers {num_workers} --trainer.max_epochs 2 --data.val_fraction 0.2"
    assert call("fit", IMAGES, arguments, NO_WANDB) == 2
    assert expected in one_line(capsys)


def test_bad_images_are_skipped_counted_and_reported_on_request(capsys, tmp_path):
    _truncated(write_image_folder(tmp_path / "images", images_per_class=10))
    _text_file(tmp_path / "images")
    arguments = "--data.num_workers 0 --data.on_bad_image skip --trainer.max_epochs 1"
    with pytest.warns(UserWarning, match=r"000\.jpg") as warned:
        assert call("fit", IMAGES, arguments, NO_WANDB) == 0
    counts = [str(w.message) for w in warned if "000.jpg" in str(w.message)]
    assert any("2" in text and "notes.txt" in text for text in counts), counts


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a finished run on three classes of images, made once."""
    root = tmp_path_factory.mktemp("trained")
    os.environ["WANDB_MODE"] = "offline"
    write_image_folder(root / "images", images_per_class=10)
    arguments = f"--data.num_workers 0 --run.root {root / 'runs'} --model.attention cbam"
    assert (
        call("fit", IMAGES.replace("root images", f"root {root / 'images'}"), arguments, SHORT, NO_WANDB) == 0
    )
    return only_run(root=root / "runs")


def test_classes_that_differ_from_the_checkpoints(trained, capsys, tmp_path):
    best = trained / "checkpoints" / "best.ckpt"
    write_image_folder(tmp_path / "images", classes=("cat", "dog", "fox", "owl"))
    assert call("test", IMAGES, f"--ckpt_path {best}", NO_WANDB) == 2
    line = one_line(capsys)
    assert "num_classes 3" in line
    assert "4" in line
    shutil.rmtree(tmp_path / "images")
    write_image_folder(tmp_path / "images", classes=("ant", "bee", "fly"))
    assert call("test", IMAGES, f"--ckpt_path {best}", NO_WANDB) == 2
    line = one_line(capsys)
    assert "cat" in line
    assert "ant" in line
    assert call("test", IMAGES, f"--model.weights {best}", NO_WANDB) == 2
    assert "fine-tune it first" in one_line(capsys)


def test_a_checkpoint_of_another_network(trained, capsys, tmp_path):
    best = trained / "checkpoints" / "best.ckpt"
    write_image_folder(tmp_path / "images")
    assert call("test", IMAGES, f"--model.attention se --ckpt_path {best}", NO_WANDB) == 2
    assert "attention 'cbam'" in one_line(capsys)
    assert call("fit", IMAGES, f"--model.attention se --model.weights {best}", NO_WANDB) == 2
    assert "another network" in one_line(capsys)


class _Intruder:
    def __reduce__(self):
        return os.system, ("touch intruded",)


@pytest.mark.parametrize("kind", ["truncated", "empty", "text", "code"])
@pytest.mark.parametrize(
    "use", ["test --ckpt_path {}", "fit --model.weights {}", "weights show {}", "weights export {} o"]
)
def test_a_damaged_or_hostile_checkpoint(trained, kind, use, capsys, tmp_path):
    path = tmp_path / "bad.ckpt"
    whole = (trained / "checkpoints" / "best.ckpt").read_bytes()
    if kind == "code":
        torch.save({"state_dict": {}, "hyper_parameters": {"x": _Intruder()}}, path)
    else:
        path.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"hello"}[kind])
    write_image_folder(tmp_path / "images")
    words = use.format(path).replace(" o", " out.safetensors")
    assert call(words, "" if words.startswith("weights") else f"{IMAGES} {NO_WANDB}") == 2
    assert "bad.ckpt" in one_line(capsys)
    assert not (tmp_path / "intruded").exists()
    assert not (tmp_path / "out.safetensors").exists()


def test_a_full_disk_ends_with_one_line_and_leaves_earlier_files(trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    before = (run / "checkpoints" / "best.ckpt").read_bytes()
    write_image_folder(tmp_path / "images", images_per_class=10)
    words = (
        f"fit {IMAGES} --data.num_workers 0 --model.attention cbam {SHORT} {NO_WANDB} "
        f"--checkpoint.dirpath {run / 'checkpoints'}"
    )
    process = start(words.split(), "run.log", max_file_bytes=300_000)
    code, said = wait(process), Path("run.log").read_text()
    assert code == 1, said
    assert said.splitlines()[-1].startswith("cbam-lightning: error: ")
    assert "File too large" in said
    assert "Traceback" not in said
    assert (run / "checkpoints" / "best.ckpt").read_bytes() == before
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]


def test_a_defect_of_ours_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr("cbam_lightning.models.describe_models", None)
    with pytest.raises(TypeError):
        call("models")


def test_debugging_shows_the_whole_traceback_of_a_mistake(capsys):
    assert call("tets --debug") == 2
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback (most recent call last):")
    assert shown.splitlines()[-1].startswith("cbam-lightning: error: unknown command 'tets'")


@pytest.mark.slow
def test_a_tracking_server_that_does_not_answer():
    environment = {**os.environ, "WANDB_MODE": "online", "WANDB_API_KEY": "0" * 40}
    environment["WANDB_BASE_URL"] = "http://127.0.0.1:9"  # the discard port, where nothing listens
    words = [sys.executable, "-m", "cbam_lightning", "fit", *f"{SMALL} {SHORT}".split()]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "http://127.0.0.1:9 does not answer; the run is recorded here" in done.stderr
    assert len(list(Path("runs").glob("default/*/wandb/offline-run-*"))) == 1
