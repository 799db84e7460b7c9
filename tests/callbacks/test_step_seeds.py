"""A plain Trainer trains as the command does, to the bit, whatever a step draws."""

import csv

from pytorch_lightning import Trainer, seed_everything

from cbam_lightning import Classifier
from cbam_lightning.callbacks.step_seeds import StepSeeds
from cbam_lightning.data import FashionMNIST
from cbam_lightning.optim import Constant
from cbam_lightning.runs.metrics_file import MetricsFile
from tests.callbacks.resume.interrupting import DropoutNet
from tests.command import NO_WANDB, call, only_run

NETWORK = "tests.callbacks.resume.interrupting.DropoutNet"
SHORT = {"max_epochs": 2, "limit_train_batches": 3, "limit_val_batches": 1, "log_every_n_steps": 1}
SHORT |= {"enable_progress_bar": False, "enable_model_summary": False}


def losses(path):
    with path.open() as file:
        return [row["train/loss"] for row in csv.DictReader(file) if row["train/loss"]]


def trained(folder, seed, data, **options):
    """Return the losses of a plain Trainer."""
    seed_everything(seed)
    path = folder / "metrics.csv"
    model = Classifier(NETWORK, in_channels=1, schedule=Constant())
    trainer = Trainer(
        **SHORT, accelerator="cpu", logger=MetricsFile(path), default_root_dir=folder, **options
    )
    trainer.fit(model, data)
    assert sum(isinstance(callback, StepSeeds) for callback in trainer.callbacks) == 1
    return losses(path)


def test_a_plain_trainer_trains_as_the_command(tmp_path):
    assert any("Dropout" in type(layer).__name__ for layer in DropoutNet())
    words = " ".join(f"--trainer.{name} {value}" for name, value in SHORT.items())
    model = f"--model.network {NETWORK} --model.schedule Constant"
    assert call("fit --data FashionMNIST --data.batch_size 32", model, words, NO_WANDB) == 0
    expected = losses(only_run() / "metrics.csv")
    assert len(expected) == 6

    assert trained(tmp_path / "plain", 0, FashionMNIST(batch_size=32)) == expected
    with_own = trained(tmp_path / "own", 0, FashionMNIST(batch_size=32), callbacks=[StepSeeds()])
    assert with_own == expected


def test_one_data_module_serves_runs_with_two_seeds(tmp_path):
    data = FashionMNIST(batch_size=32)
    both = [trained(tmp_path / str(seed), seed, data) for seed in (0, 1)]
    fresh = trained(tmp_path / "fresh", 1, FashionMNIST(batch_size=32))
    assert both[1] == fresh != both[0]
