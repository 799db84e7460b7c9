"""Whatever is configured of Lightning or of torch works, or one line says why not, and no run is left."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml

from cbam_lightning.cli import trainer_errors
from cbam_lightning.models import create_model
from cbam_lightning.optim.place import steps_per_epoch
from cbam_lightning.runs.half_made import NewFolders
from cbam_lightning.tasks import Classifier
from tests.cli.test_bad_input import one_line
from tests.command import NO_WANDB, call, only_run

QUICK = (
    "--data FashionMNIST --data.batch_size 4 --data.num_workers 0 --model.network resnet8 "
    "--trainer.limit_train_batches 2 --trainer.limit_val_batches 2 --trainer.limit_test_batches 2 "
    "--trainer.enable_progress_bar false --trainer.enable_model_summary false --run.test_after_fit false"
)
ADD, OF = "--trainer.callbacks+=", "--trainer.callbacks."
SCHEDULER = "--model.schedule TorchSchedule --model.schedule.scheduler"
PLATEAU = (
    f"{SCHEDULER} pytorch_lightning.cli.ReduceLROnPlateau --model.schedule.scheduler.monitor val/loss "
    "--model.schedule.monitor"
)
ONE_CYCLE = f"{SCHEDULER} OneCycleLR --model.schedule.scheduler.max_lr 0.1 --model.schedule.scheduler"
MISTAKES = {
    f"{ADD}Timer {OF}interval hour": ["--trainer.callbacks Timer", "interval=hour"],
    f"{ADD}EarlyStopping": ["--trainer.callbacks EarlyStopping needs --trainer.callbacks.monitor"],
    f"{ADD}EarlyStopping {OF}monitor val/lsos": ["EarlyStopping", "'val/lsos'", "Did you mean 'val/loss'"],
    f"{PLATEAU} val/top1": ["monitor is 'val/top1'", "monitor is 'val/loss'", "give one of them"],
    f"{SCHEDULER} pytorch_lightning.cli.ReduceLROnPlateau --model.schedule.scheduler.monitor val/lsos": [
        "--model.schedule",
        "'val/lsos'",
        "Did you mean 'val/loss'",
    ],
    "--checkpoint.monitor val/acc --checkpoint.mode max": ["ModelCheckpoint", "'val/acc'", "val/top1"],
    "--checkpoint.monitor val/loss": ["--checkpoint.mode min or --checkpoint.mode max"],
    "--trainer.accumulate_grad_batches 0": ["accumulate_grad_batches is 0", "at least 1"],
    "--trainer.strategy dp": ["strategy='dp'"],
    "--trainer.plugins XLACheckpointIO": ["--trainer.plugins XLACheckpointIO", "torch_xla"],
    "--trainer.plugins AsyncCheckpointIO": ["--trainer.plugins AsyncCheckpointIO", "leave the plugin out"],
    "--trainer.profiler smiple": ["profiler", "simple"],
    "--model.optimizer Muon": ["--model.optimizer Muon", "2D parameters"],
    "--model.optimizer SparseAdam": ["--model.optimizer SparseAdam", "does not support dense gradients"],
    f"{SCHEDULER} OneCycleLR --model.schedule.scheduler.max_lr 0.1": ["scheduler OneCycleLR", "total_steps"],
    f"{ONE_CYCLE}.total_steps 3 --trainer.max_epochs 4": [
        "total_steps is 3",
        "stepped 4 times",
        "every epoch",
    ],
    f"{ONE_CYCLE}.total_steps 3 --model.schedule.interval step --trainer.max_epochs 2": ["stepped 4 times"],
    f"{ONE_CYCLE}.epochs 1 {ONE_CYCLE.split()[-1]}.steps_per_epoch 3 --trainer.max_epochs 4": [
        "total_steps is 3"
    ],
    "--model.network resnet18 --data.batch_size 1": ["one value per channel", "--data.batch_size"],
    "--model.num_classes 3": ["--model.num_classes is 3", "FashionMNIST has 10", "leave"],
    "--model.mean [0.5]": ["--model.mean is [0.5]", "FashionMNIST has (0.286,)"],
    "--trainer.val_check_interval 50": ["`val_check_interval` (50)", "training batches (2)"],
    "--trainer.val_check_interval 0": ["--trainer.val_check_interval is 0", "more than 0"],
    "--trainer.check_val_every_n_epoch 0": ["check_val_every_n_epoch is 0", "at least 1"],
    "--trainer.gradient_clip_val=-1": ["--trainer.gradient_clip_val is -1", "more than 0, or null"],
}


def fit(words):
    return call("fit", QUICK, NO_WANDB, words)


def saved(experiment):
    return yaml.safe_load((only_run(experiment) / "config.yaml").read_text())


def last(experiment):
    return torch.load(only_run(experiment) / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(words, capsys, tmp_path):
    assert fit(f"--trainer.max_epochs 2 {words}") == 2
    line = one_line(capsys)
    assert all(part in line for part in MISTAKES[words]), line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "package"),
    [
        ("--trainer.logger TensorBoardLogger --trainer.logger.save_dir logs", "tensorboard"),
        ("--trainer.logger MLFlowLogger", "mlflow"),
        (f"{ADD}RichProgressBar", "rich"),
    ],
)
def test_a_package_that_is_not_installed(words, package, capsys, tmp_path):
    if find_spec(package):
        pytest.skip(f"{package} is installed")
    assert fit(words) == 2
    assert package in one_line(capsys)
    assert not list(tmp_path.iterdir())


MANY = (
    f"{ADD}Timer {ADD}StochasticWeightAveraging {OF}swa_lrs 0.01 {ADD}EarlyStopping {OF}monitor val/loss "
    f"{ADD}ModelCheckpoint {OF}monitor val/loss {OF}mode min {OF}filename other {ADD}LambdaCallback "
    f"{ADD}DeviceStatsMonitor {ADD}LearningRateMonitor {ADD}GradientAccumulationScheduler "
    f"{OF}scheduling '{{0: 1, 1: 2}}' "
    "--trainer.profiler SimpleProfiler --trainer.logger CSVLogger --trainer.logger.save_dir logs"
)


@pytest.mark.slow
def test_what_was_configured_can_be_read_again():
    assert fit(f"{MANY} --trainer.max_epochs 2 --run.experiment first") == 0
    assert call(f"fit --config {only_run('first')}/config.yaml --run.experiment second") == 0
    first, second = saved("first"), saved("second")
    assert first["trainer"] == second["trainer"]
    callbacks = first["trainer"]["callbacks"]
    options = {one["class_path"].rpartition(".")[2]: one["init_args"] for one in callbacks}
    assert options["StochasticWeightAveraging"]["swa_lrs"] == 0.01
    assert "device" not in options["StochasticWeightAveraging"]
    assert options["EarlyStopping"]["patience"] == 3
    weights = [last(name)["state_dict"] for name in ("first", "second")]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


@pytest.mark.slow
def test_a_backbone_is_unfrozen_as_lightning_does_it_and_the_run_goes_on_exactly():
    words = f"{ADD}BackboneFinetuning {OF}unfreeze_backbone_at_epoch 1 --model.schedule Constant"
    assert fit(f"{words} --trainer.max_epochs 3 --run.experiment unbroken") == 0
    assert fit(f"{words} --trainer.max_epochs 2 --run.experiment broken") == 0
    (head, backbone) = last("broken")["optimizer_states"][0]["param_groups"]
    assert head["lr"] == pytest.approx(0.1)
    assert backbone["lr"] == pytest.approx(0.01)  # a tenth of the classifier's, Lightning's default
    assert call(f"resume {only_run('broken')} --trainer.max_epochs 3") == 0
    whole, resumed = last("unbroken")["state_dict"], last("broken")["state_dict"]
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_the_backbone_is_everything_but_the_classifier_and_no_second_registration():
    task = Classifier("resnet20", num_classes=10)
    names = [name for name, _ in task.named_parameters()]
    backbone = {id(parameter) for parameter in task.backbone.parameters()}
    left = {name for name, parameter in task.named_parameters() if id(parameter) not in backbone}
    assert left == {"network.fc.weight", "network.fc.bias"}
    assert [name for name, _ in task.named_parameters()] == names
    plain = create_model("resnet20", num_classes=10)
    assert {f"network.{name}" for name in plain.state_dict()} <= set(task.state_dict())


@pytest.mark.slow
def test_a_search_finds_learning_rate_and_batch_size_once(caplog):
    words = (
        f"{ADD}BatchSizeFinder {OF}max_trials 1 {OF}steps_per_trial 1 {OF}init_val 3 "
        f"{ADD}LearningRateFinder {OF}num_training_steps 20 --model.schedule WarmupCosine "
        "--trainer.limit_train_batches 20"
    )
    assert fit(f"{words} --trainer.max_epochs 1 --seed_everything 5") == 0
    found = last("default")
    (group,) = found["optimizer_states"][0]["param_groups"]
    (schedule,) = found["lr_schedulers"]
    assert group["initial_lr"] != 0.1
    assert schedule["base_lrs"] == [group["initial_lr"]]
    assert found["callbacks"]["StepSeeds"]["seed"] == 5
    assert saved("default")["data"]["init_args"]["batch_size"] == 3
    caplog.clear()
    assert call(f"resume {only_run()} --trainer.max_epochs 2") == 0
    assert "batch size finder" not in caplog.text
    assert last("default")["lr_schedulers"][0]["base_lrs"] == schedule["base_lrs"]


def test_the_best_checkpoint_is_the_one_with_the_smaller_loss():
    words = "--checkpoint.monitor val/loss --checkpoint.mode min --trainer.max_epochs 1"
    assert fit(words) == 0
    state = torch.load(only_run() / "checkpoints" / "best.ckpt", weights_only=True)["callbacks"]
    (best,) = [value for key, value in state.items() if key.startswith("ModelCheckpoint")]
    assert best["monitor"] == "val/loss"
    assert saved("default")["checkpoint"]["mode"] == "min"


def test_another_figure_than_the_saved_one_needs_a_mode_again(capsys):
    assert fit("--trainer.max_epochs 1") == 0
    config = only_run() / "config.yaml"
    assert saved("default")["checkpoint"]["mode"] == "auto"
    assert call(f"fit --config {config} --checkpoint.monitor val/loss --run.experiment other") == 2
    assert "--checkpoint.mode min" in one_line(capsys)


def test_only_new_folders_are_taken_back(tmp_path):
    (tmp_path / "old" / "mine").mkdir(parents=True)
    (tmp_path / "old" / "mine" / "file").touch()
    for known in (Path("old/mine"), Path("old/mine/file")):
        NewFolders(known).take_back(known)
    new = Path("old/new/run")
    folders = NewFolders(new.parent)
    new.mkdir(parents=True)
    (new / "file").touch()
    folders.take_back(new)
    assert sorted(str(path) for path in Path().rglob("*")) == ["old", "old/mine", "old/mine/file"]


def test_a_mistake_leaves_a_run_of_that_name_alone(capsys):
    assert fit("--trainer.max_epochs 1 --run.name mine") == 0
    before = sorted(Path().rglob("*"))
    assert fit("--trainer.max_epochs 2 --run.name mine --trainer.strategy dp") == 2
    assert "strategy='dp'" in one_line(capsys)
    assert sorted(Path().rglob("*")) == before


def test_a_figure_that_a_class_of_ones_own_never_logs(capsys, monkeypatch, tmp_path):
    """It might log it in training, so Lightning finds out at the end of the first epoch."""
    (tmp_path / "mine.py").write_text("from cbam_lightning import Classifier\nclass Mine(Classifier): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    own = QUICK.replace("--model.network", "--imports '[mine]' --model mine.Mine --model.network")
    words = f"{own} {ADD}EarlyStopping {OF}monitor val/f1"
    assert call("fit", words, NO_WANDB, "--trainer.max_epochs 2") == 2
    line = one_line(capsys)
    assert "--trainer.callbacks EarlyStopping" in line
    assert "val/f1" in line


def test_a_callback_of_ones_own_that_raises(capsys, monkeypatch, tmp_path):
    """One line names its file, in its constructor and in a run, and nothing is left."""
    text = (
        "from pytorch_lightning import Callback\n"
        "class Broken(Callback):\n"
        "    def __init__(self, early: bool):\n"
        "        early and {}['nothing']\n"
        "    def on_train_start(self, trainer, pl_module):\n"
        "        {}['late']\n"
    )
    (tmp_path / "own_callback.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    assert fit(f"{ADD}own_callback.Broken {OF}early true") == 2
    line = one_line(capsys)
    assert "--trainer.callbacks Broken: KeyError: 'nothing'" in line
    assert "own_callback.py, line 4" in line
    assert not Path("runs").exists()
    assert fit(f"{ADD}own_callback.Broken {OF}early false") == 2
    assert "own_callback.py, line 6: KeyError: 'late'. --debug shows" in one_line(capsys)
    assert not Path("runs").exists()


def test_a_defect_of_ours_is_no_mistake():
    with pytest.raises(AttributeError) as defect:
        steps_per_epoch(None)
    assert trainer_errors._is_ours(trainer_errors._frames(defect.value))


def test_a_failure_of_the_machine_while_a_class_is_made_is_one_line(capsys):
    assert call("fit --data ImageFolder --model.network resnet20 --data.root", "pets" * 2000, NO_WANDB) == 1
    assert "File name too long: 'petspets" in one_line(capsys)
    assert not Path("runs").exists()


def test_without_checkpoints_a_run_is_tested_as_it_ended(capsys):
    words = QUICK.replace("--run.test_after_fit false", "")
    assert call("fit", words, NO_WANDB, "--trainer.max_epochs 1 --trainer.enable_checkpointing false") == 0
    assert "no checkpoint was written" in capsys.readouterr().out
    assert (only_run() / "results.json").is_file()
    assert not list(Path("runs").rglob("*.ckpt"))


def test_without_a_validation_the_last_checkpoint_is_tested_and_reported(capsys):
    words = QUICK.replace("--run.test_after_fit false", "")
    assert call("fit", words, NO_WANDB, "--trainer.max_epochs 1 --trainer.limit_val_batches 0") == 0
    assert "last.ckpt" in capsys.readouterr().out
    assert '"checkpoint": "checkpoints/last.ckpt"' in (only_run() / "results.json").read_text()
