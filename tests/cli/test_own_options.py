"""Errors in the words of a command that has other options than `fit`."""

from pathlib import Path

import pytest

from cbam_lightning.cli.own_options import reword
from cbam_lightning.data import CIFAR10, CocoDetection, FashionMNIST, ImageFolder, ImageNet, VOCDetection
from cbam_lightning.errors import UsageError

OPTIONS = ("root", "size_px")

TEXTS = {
    "size_px is 0; allowed: 1 or more. Change it with --data.size_px.": (
        "size_px is 0; allowed: 1 or more. Change it with --size-px."
    ),
    "a.xml is wrong. Give other classes with --data.class_names.": "a.xml is wrong.",
    "x has no image: add images, change --data.val_fraction, or set --data.keep_negatives true.": (
        "x has no image: add images."
    ),
    "it does not fit; train it, or load what fits (--model.strict_weights false).": (
        "it does not fit; train it, or load what fits."
    ),
    "--data.eval_transform is a str; allowed: a callable object.": (
        "eval_transform is a str; allowed: a callable object."
    ),
    "cannot read v1.2/a.jpg: broken.": "cannot read v1.2/a.jpg: broken.",
}


@pytest.mark.parametrize("text", TEXTS)
def test_advice_is_renamed_or_left_out(text):
    assert reword(text, OPTIONS) == TEXTS[text]


@pytest.mark.parametrize(
    "module", [CIFAR10, CocoDetection, ImageFolder, ImageNet, VOCDetection, FashionMNIST]
)
def test_a_data_set_that_is_not_there_is_asked_for_with_root(module, monkeypatch):
    monkeypatch.setattr("cbam_lightning.data.fashion_mnist.DEBIAN_DIR", Path("none"))
    options = {"source": "full"} if module is FashionMNIST else {}
    with pytest.raises(UsageError) as found:
        module(root="nowhere", **options).split_set("test")
    text = reword(str(found.value), OPTIONS)
    assert "--data." not in text
    assert "nowhere" in text
    assert "--root" in text
