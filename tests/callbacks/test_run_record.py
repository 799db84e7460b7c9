"""The configuration of a run can be read again, and is the same then."""

import pytest
import yaml

from cbam_lightning.callbacks.run_record import RunRecord
from cbam_lightning.errors import UsageError
from cbam_lightning.runs.directory import RunDirectory
from tests.cli.test_trainer_errors import ADD, OF, QUICK
from tests.command import NO_WANDB, call, only_run


class Parser:
    """Writes YAML as jsonargparse does; a set stands for what it cannot write."""

    def dump(self, config, **kwargs):
        text = yaml.safe_dump(config)
        return text.replace("DEVICE", "'Unable to serialize instance cpu'")


def record(read):
    return RunRecord(Parser(), {"a": 1}, RunDirectory("."), {}, read)


def test_what_cannot_be_read_again_is_refused():
    written = {"trainer": {"callbacks": [{"init_args": {"device": "DEVICE", "x": float("nan")}}]}}
    text = record(None)._dumped(written)
    assert yaml.safe_load(text)["trainer"]["callbacks"][0]["init_args"]["device"] == "cpu"
    record(lambda content: content)._require_same(text)
    for damage in ({"device": "mps", "x": 1.0}, {"x": 1.0}):
        other = {"trainer": {"callbacks": [{"init_args": damage}]}}
        with pytest.raises(
            UsageError, match=r"--trainer\.callbacks\.device has a value that config\.yaml cannot"
        ):
            record(lambda content, other=other: other)._require_same(text)

    def fails(content):
        raise ValueError('Parser key "trainer.callbacks":\n  Invalid device string')

    with pytest.raises(UsageError, match=r"--trainer\.callbacks has a value"):
        record(fails)._require_same(text)


def test_a_function_by_name_and_a_device_are_written_as_given():
    swa = f"{ADD}StochasticWeightAveraging {OF}swa_lrs 0.01 {OF}device cpu"
    pruning = f"{ADD}ModelPruning {OF}pruning_fn l1_unstructured"
    assert call("fit", QUICK, NO_WANDB, swa, pruning, "--trainer.max_epochs 1") == 0
    config = only_run() / "config.yaml"
    callbacks = yaml.safe_load(config.read_text())["trainer"]["callbacks"]
    assert [callbacks[0]["init_args"]["device"], callbacks[1]["init_args"]["pruning_fn"]] == [
        "cpu",
        "l1_unstructured",
    ]
    assert call("fit --config", config, "--run.experiment again") == 0
    assert (only_run("again") / "config.yaml").is_file()
