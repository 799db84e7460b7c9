"""User-defined classes of every kind, with the installed command, outside this repository."""

import csv
import json
import re

import pytest
import torch
import yaml

# Each test starts many real processes and spends many seconds importing torch.
pytestmark = pytest.mark.timeout(400)

FEW = {
    "max_epochs": 2,
    "limit_val_batches": 2,
    "limit_test_batches": 2,
    "log_every_n_steps": 1,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
CLASSIFIER = {
    "imports": ["coordinate"],
    "model": {
        "class_path": "training.WeightedTask",
        "init_args": {
            "class_weights": [1.0, 2.0, 1.0, 0.5],
            "network": "resnet8",
            "attention": "coordinate",
            "attention_options": {"reduction": 8},
            "metrics": [{"class_path": "training.MeanProbability"}],
            "optimizer": {"class_path": "training.ClippedSGD", "init_args": {"limit": 0.05}},
            "schedule": {
                "class_path": "TorchSchedule",
                "init_args": {
                    "scheduler": {"class_path": "training.Halving", "init_args": {"every": 3}},
                    "interval": "step",
                },
            },
        },
    },
    "data": {
        "class_path": "TorchDataset",
        "init_args": {
            "train": {"class_path": "data.Garments"},
            "test": {"class_path": "data.Garments", "init_args": {"train": False, "count": 32}},
            "size_px": 24,
            "in_channels": 1,
            "batch_size": 16,
            "num_workers": 0,
            "train_transform": [{"class_path": "RandomCrop", "init_args": {"size": 24}}, "training.Solarise"],
        },
    },
    "trainer": {**FEW, "callbacks": [{"class_path": "training.BreakOff"}]},
}
PLAIN = {
    "model": {
        "class_path": "Classifier",
        "init_args": {
            "network": "networks.Shallow",
            "attention": "coordinate.CoordinateAttention",
            "network_options": {"where": ["body.2"]},
            "num_classes": 3,
            "in_channels": 1,
        },
    },
    "data": {"class_path": "data.PlainData"},
    "trainer": {**FEW, "callbacks": [{"class_path": "training.BreakOff"}]},
}
MODULE = {
    "model": {"class_path": "module.Distiller"},
    "data": {"class_path": "data.PlainData"},
    "trainer": {**FEW, "callbacks": [{"class_path": "training.BreakOff"}]},
}


FIT = "cbam-lightning fit --config mine.yaml --wandb.enabled false --run.experiment x --run.name"
BEST = "--config runs/x/whole/config.yaml --ckpt_path runs/x/whole/checkpoints/best.ckpt --run.experiment"


def write_config(project, config):
    (project.folder / "mine.yaml").write_text(yaml.safe_dump(config))


def rows(run):
    """Return the rows of ``metrics.csv`` without what no two runs have in common."""
    with (run / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "train/images_per_s"} for row in csv.DictReader(file)]


def weights(run):
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


def break_off_and_resume(project, step, resume=None):
    """Train once without and once with SIGTERM in mid-epoch; the results must agree bit for bit."""
    resume = resume or project.run
    project.run(f"{FIT} whole")
    told = project.run(f"{FIT} broken", code=143, BREAK_AT=str(step))
    assert f"stopped after step {step}" in told
    resume("cbam-lightning resume runs/x/broken")
    whole, broken = (project.folder / "runs/x" / name for name in ("whole", "broken"))
    assert rows(broken) == rows(whole)
    assert len(rows(whole)) > 10
    expected, found = weights(whole), weights(broken)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert json.loads((broken / "results.json").read_text()) == json.loads(
        (whole / "results.json").read_text()
    )
    return whole


def results(project, experiment):
    (run,) = (project.folder / "runs" / experiment).iterdir()
    return json.loads((run / "results.json").read_text())["metrics"]


def test_a_classifier_with_everything_of_ones_own(project):
    write_config(project, CLASSIFIER)
    whole = break_off_and_resume(project, step=3)
    tested = json.loads((whole / "results.json").read_text())["metrics"]
    assert {"test/top1", "test/loss", "test/MeanProbability"} <= tested.keys()
    assert all(
        row.keys() >= {"train/MeanProbability", "val/MeanProbability", "lr-ClippedSGD"} for row in rows(whole)
    )
    project.run(f"cbam-lightning test {BEST} again")
    assert results(project, "again") == tested
    project.run(f"cbam-lightning predict {BEST} predicted")
    (predictions,) = (project.folder / "runs/predicted").glob("*/predictions.csv")
    assert len(predictions.read_text().splitlines()) == 1 + 32
    share(project, tested)


def share(project, tested):
    """Export the checkpoint to a shareable file, then load, export and explain it."""
    project.run("cbam-lightning weights export runs/x/whole mine.safetensors")
    load = "cbam-lightning test --config mine.yaml --wandb.enabled false --run.experiment loaded"
    project.run(f"{load} --model.weights mine.safetensors")
    assert results(project, "loaded") == tested
    refused = project.run("cbam-lightning export mine.safetensors --to onnx", code=2)
    assert "unknown attention 'coordinate'" in refused
    told = project.run("cbam-lightning export mine.safetensors --to onnx --imports coordinate")
    assert float(re.search(r"at most (\S+)", told)[1]) < 1e-4
    write_pictures(project.folder / "pictures")
    explain = "cbam-lightning explain mine.safetensors --images pictures --steps 2 --out explained"
    project.run(explain, CBAM_LIGHTNING_IMPORTS="coordinate")
    assert (project.folder / "explained/figure.png").stat().st_size > 10_000


def write_pictures(folder):
    from PIL import Image

    from cbam_lightning.data import FashionMNIST

    folder.mkdir()
    for number, image in enumerate(FashionMNIST().load_part(train=False)[0][:3, 0].numpy()):
        Image.fromarray(image).save(folder / f"{number}.png")


def test_a_study_with_two_arms_is_compared(project):
    config = {**CLASSIFIER, "trainer": {**FEW, "max_epochs": 1}}
    write_config(project, config)
    arms = {
        "none": {"model.attention": "none", "model.attention_options": {}},
        "mine": {"model.attention": "coordinate.CoordinateAttention"},
    }
    study = {"config": "mine.yaml", "seeds": [0], "arms": arms, "settings": {"wandb.enabled": False}}
    (project.folder / "study.yaml").write_text(yaml.safe_dump(study))
    project.run("cbam-lightning study study.yaml --jobs 2")
    told = project.run("cbam-lightning compare study.yaml --repeats 1")
    assert re.search(r"mine .*\d", told)
    assert "test/top1" in told


def test_a_network_and_a_plain_data_module(project):
    write_config(project, PLAIN)
    whole = break_off_and_resume(project, step=4)
    project.run(f"cbam-lightning predict {BEST} predicted")
    (predictions,) = (project.folder / "runs/predicted").glob("*/predictions.csv")
    assert len(predictions.read_text().splitlines()) == 1 + 32
    assert "attention" in " ".join(weights(whole))
    project.run(f"cbam-lightning validate {BEST} validated")
    assert results(project, "validated").keys() == {"val/loss", "val/top1", "val/top5"}


def test_a_module_of_ones_own(project):
    write_config(project, MODULE)
    whole = break_off_and_resume(project, step=4, resume=project.type)
    assert any(row["train_loss_epoch"] for row in rows(whole))
    assert any(row["train_auroc"] for row in rows(whole))
    project.run(f"cbam-lightning test {BEST} again")
    expected = json.loads((whole / "results.json").read_text())["metrics"]
    assert results(project, "again") == expected
    told = project.run(f"cbam-lightning predict {BEST} predicted")
    assert "Distiller is not a Classifier: no pictures, no `weights export`, no `explain`" in told
    (predictions,) = (project.folder / "runs/predicted").glob("*/predictions.pt")
    assert str(predictions.relative_to(project.folder)) in told
    found = torch.load(predictions, weights_only=True)
    assert torch.cat([batch["logits"] for batch in found]).shape == (32, 3)
    refused = project.run("cbam-lightning weights export runs/x/whole out.safetensors", code=2)
    assert "does not say its network" in refused


def test_a_new_project_runs_as_it_is(project):
    project.run("cbam-lightning new there")
    there = project.folder / "there"
    readme = (there / "README.md").read_text()
    assert len(list(there.iterdir())) <= 8
    assert all(len(path.read_text().splitlines()) < 40 for path in there.iterdir())
    fit, test, *_ = re.findall(r"^    (\S.*)$", readme, re.MULTILINE)
    assert (fit, test) == ("cbam-lightning fit --config experiment.yaml", "pytest")
    project.folder = there
    told = project.run(fit)
    assert float(re.search(r"test/top1 (\S+),", told)[1]) > 0.6
    assert "3 passed" in project.run(test)
    refused = project.run("cbam-lightning new .", code=2)
    assert "is not an empty folder" in refused
