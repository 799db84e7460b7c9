"""Grad-CAM and gates while training goes on, in a real run that W&B records."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cbam_lightning.callbacks import AttentionPictures
from cbam_lightning.errors import UsageError
from tests.command import SHORT, SMALL, call, only_run
from tests.runs.recordings import history, read_back

SIZE = "--model.network_options.depths [1,1,1] --model.network_options.widths [4,6,8]"
CALLBACK = "--trainer.callbacks+=AttentionPictures --trainer.callbacks."
EVERY = f"{CALLBACK}num_images 3 --trainer.callbacks.every_epochs 2"


def test_are_drawn_every_few_epochs_and_after_the_last():
    assert (
        call("fit", SMALL, SHORT, SIZE, EVERY, "--trainer.max_epochs 3 --trainer.callbacks.layer layer2") == 0
    )
    run = only_run()
    names = [f"{kind}_epoch_00{epoch}.png" for kind in ("gates", "gradcam") for epoch in (2, 3)]
    assert sorted(path.name for path in (run / "pictures").glob("*_epoch_*")) == names
    for name in names:
        with Image.open(run / "pictures" / name) as picture:
            assert len(np.unique(np.asarray(picture.convert("L")))) > 50
    logged = history(read_back(run)[1])
    for kind in ("gradcam", "gates"):
        assert logged[f"val/{kind}._type"] == ["images/separated"] * 2


def test_training_is_the_same_with_and_without():
    for name, options in {"without": "", "with": EVERY}.items():
        words = "--trainer.max_epochs 2 --wandb.enabled false --run.name"
        assert call("fit", SMALL, SHORT, SIZE, options, words, name) == 0
    states = [
        torch.load(Path("runs/default", name, "checkpoints/last.ckpt"), weights_only=True)["state_dict"]
        for name in ("without", "with")
    ]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_a_wrong_layer_ends_before_training(capsys):
    assert call("fit", SMALL, SHORT, EVERY, "--trainer.callbacks.layer layer9 --wandb.enabled false") == 2
    assert "unknown layer of ResNet 'layer9'" in capsys.readouterr().err


def test_a_wrong_number_is_refused():
    with pytest.raises(UsageError, match="every_epochs is 0"):
        AttentionPictures(every_epochs=0)
