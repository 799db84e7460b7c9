"""What the parser prints is what it reads."""

import contextlib
from pathlib import Path

import pytest
import yaml

from cbam_lightning.cli.option_parser import refuse_unwritten
from cbam_lightning.cli.trainer import TrainerCLI
from cbam_lightning.errors import UsageError
from tests.command import parsed

SWA = "StochasticWeightAveraging"


def test_a_printed_configuration_can_be_read(monkeypatch, capsys):
    words = ["--data=FashionMNIST", "--model.network=resnet8", f"--trainer.callbacks={SWA}"]
    with contextlib.suppress(SystemExit):
        TrainerCLI(["fit", *words, "--trainer.callbacks.swa_lrs=0.01", "--print_config"])
    Path("printed.yaml").write_text(capsys.readouterr().out)
    (written,) = yaml.safe_load(Path("printed.yaml").read_text())["trainer"]["callbacks"]
    assert "device" not in written["init_args"]  # an object in Python, and the default
    (read,) = parsed(["fit", "--config=printed.yaml"], monkeypatch).trainer.callbacks
    assert read.init_args.as_dict() == written["init_args"]


@pytest.mark.parametrize("words", ["=null", "=None", " null"])
def test_null_in_a_dictionary_is_null(monkeypatch, words):
    options = f"--model.attention_options.gamma 2.5 --model.attention_options.kernel_size{words}".split()
    arguments = ["fit", "--data=FashionMNIST", "--model.network=resnet8", "--model.attention=eca", *options]
    read = parsed(arguments, monkeypatch).model.init_args.attention_options
    assert read == {"gamma": 2.5, "kernel_size": None}


def test_what_an_older_version_could_not_write_is_refused():
    options = {"swa_lrs": 0.01, "device": "Unable to serialize instance cpu"}
    config = {"trainer": {"callbacks": [{"class_path": SWA, "init_args": options}]}}
    with pytest.raises(UsageError, match=r"--trainer\.callbacks\.0\.device in old\.yaml is"):
        refuse_unwritten(config, "old.yaml")
    del options["device"]
    refuse_unwritten(config, "old.yaml")
