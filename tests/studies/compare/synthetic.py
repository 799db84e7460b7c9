"""Run directories with known results, as finished runs leave them."""

import json

import yaml

from cbam_lightning.studies.compare.finished import FinishedRun


def settings(attention="none", **changed):
    """Return a small resolved configuration."""
    config = {
        "model": {"class_path": "cbam_lightning.Classifier", "init_args": {"network": "resnet8"}},
        "data": {"class_path": "cbam_lightning.data.FashionMNIST", "init_args": {"batch_size": 64}},
        "trainer": {"max_epochs": 3, "logger": None},
    }
    options = changed.pop("attention_options", {})
    config["model"]["init_args"] |= {"attention": attention, "attention_options": options}
    for key, value in changed.items():
        config["data"]["init_args"][key] = value
    return config


def write_run(path, attention="none", seed=0, top1=0.9, **changed):
    """Write config.yaml and results.json of a finished run."""
    path.mkdir(parents=True)
    config = {"seed_everything": seed, **settings(attention, **changed), "run": {"name": path.name}}
    (path / "config.yaml").write_text("# pytorch_lightning==2.6.6\n" + yaml.safe_dump(config))
    network = {"network": "resnet8", "attention": attention, "network_options": {}, "num_classes": 10}
    network |= {"attention_options": changed.get("attention_options", {}), "in_channels": 1, "size_px": 28}
    results = {"checkpoint": None, "metrics": {"test/top1": top1, "test/loss": 0.3}, "network": network}
    (path / "results.json").write_text(json.dumps(results))
    return path


def run(attention, seed, top1):
    """Return a finished run without a file."""
    return FinishedRun(f"{attention}/{seed}", seed, {"model.attention": attention}, {"test/top1": top1})
