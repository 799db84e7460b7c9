"""What is known only when training starts."""

from tests.cli.test_bad_input import one_line
from tests.cli.test_trainer_errors import ADD, OF, QUICK
from tests.command import NO_WANDB, call


def test_a_run_whose_stochastic_averaging_had_begun_is_not_resumed(capsys):
    averaged = f"{ADD}StochasticWeightAveraging {OF}swa_lrs 0.05 {OF}swa_epoch_start 1 --run.name swa"
    words = ["fit", QUICK, NO_WANDB, averaged]
    for _ in range(2):  # its command may be typed again once it is complete
        assert call(*words, "--trainer.max_epochs 2") == 0
    capsys.readouterr()
    assert call(*words, "--trainer.max_epochs 4") == 2
    assert "StochasticWeightAveraging had begun" in one_line(capsys)
