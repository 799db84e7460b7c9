"""What jsonargparse says of a wrong option becomes one sentence about the cause."""

import sys
from pathlib import Path

import pytest

from cbam_lightning.cli.option_errors import explain
from cbam_lightning.cli.trainer import TrainerCLI
from cbam_lightning.errors import UsageError

ASKS = "def __getattr__(name):\n    raise ImportError('needs the package foo')\n"
START = ["fit", "--data=FashionMNIST", "--model.network=resnet8"]
ADD, OF = "--trainer.callbacks+=", "--trainer.callbacks."
SCHEDULE = "--model.schedule TorchSchedule --model.schedule.scheduler"
SAID = {
    f"{SCHEDULE} ReduceLROnPlateau": "--model.schedule.scheduler is 'ReduceLROnPlateau', the name of several "
    "classes; give the path of one: torch.optim.lr_scheduler.ReduceLROnPlateau, "
    "pytorch_lightning.cli.ReduceLROnPlateau.",
    f"{SCHEDULE} torch.optim.SGD": "--model.schedule.scheduler is 'torch.optim.SGD', "
    "which is not a scheduler.",
    f"{SCHEDULE} StepLR {SCHEDULE.split()[-1]}.step_size x": "--model.schedule.scheduler.step_size is 'x'; "
    "allowed: int.",
    "--model.optimizer fractions.Fraction": "--model.optimizer is 'fractions.Fraction', "
    "which is not a Optimizer.",
    "--model.optimizer torch.optim.Optimizer": "--model.optimizer Optimizer needs "
    "--model.optimizer.defaults.",
    "--model.optimizer AdamW --model.optimizer.lr x": "--model.optimizer.lr is 'x'; allowed: float.",
    "--model.optimizer AdamW --model.optimizer.betas 3": "--model.optimizer.betas is '3'; allowed: tuple.",
    f"{ADD}Timer {OF}foo 3": "Timer has no option 'foo'. Allowed: duration, interval, verbose.",
    f"{ADD}EarlyStopping {OF}patience x": "--trainer.callbacks.patience is 'x'; allowed: int.",
    f"{OF}foo 3": "trainer.callbacks has no class yet to have an option 'foo'; name the class first, "
    "--trainer.callbacks NAME.",
    "--data.train_transform torchvision.transforms.v2.RandomAffine --data.train_transform.degrees 10": (
        "--data.train_transform.degrees is '10'; allowed: Sequence."
    ),
    f"{ADD}asks_for_more.Thing": "--trainer.callbacks: 'asks_for_more.Thing' cannot be imported. "
    "asks_for_more.py, line 2: ImportError: needs the package foo",
    "--model.optimizer fails.Thing": "--model.optimizer: 'fails' cannot be imported. fails.py, line 1: "
    "ModuleNotFoundError: No module named 'no_such_package'",
}


@pytest.mark.parametrize("words", SAID)
def test_the_cause(words, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    Path("asks_for_more.py").write_text(
        "def __getattr__(name):\n    raise ImportError('needs the package foo')\n"
    )
    Path("fails.py").write_text("import no_such_package\n")
    with pytest.raises(UsageError) as error:
        TrainerCLI([*START, *words.split()])
    assert str(error.value) == SAID[words]
    sys.modules.pop("asks_for_more", None)


def test_a_message_that_is_not_known_keeps_its_words():
    text = 'Parser key "x":\n  - Expected a path but 3 either not accessible or invalid\n  something else 3'
    assert explain(text, []) == 'Parser key "x":\n  something else 3'
    nested = "Problem: NestedArg(key='scheduler', val='Foo') is odd"
    assert explain(nested, []) == "Problem: Foo is odd"
