"""Model cards of checkpoints trained on Fashion-MNIST: origin, results and limits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import yaml

from cbam_lightning.benchmarks.accuracy import Measured
from cbam_lightning.data import FashionMNIST
from cbam_lightning.weights import Header
from cbam_lightning.weights.entry import Entry

_CARD = """\
# {entry.name}

`{header.network}` {attention}, trained to classify the 10 classes of Fashion-MNIST; {num_bytes} bytes.

## How to use it

    from cbam_lightning import create_model
    network = create_model("{header.network}", weights="{entry.name}").eval()

It takes greyscale images (N, 1, 28, 28) with values from 0 (black) to 1 (white), normalised with mean
{mean} and std {std}, and returns logits (N, 10) for: {classes}.

    cbam-lightning predict --model.weights {entry.name} --data FashionMNIST
    cbam-lightning fit --model.weights {entry.name} --data ImageFolder --data.root photos \\
      --data.size_px 28 --data.in_channels 1 --data.mean '[{mean}]' --data.std '[{std}]'
    cbam-lightning weights verify {entry.name}

## Training data

Fashion-MNIST (https://github.com/zalandoresearch/fashion-mnist, https://arxiv.org/abs/1708.07747):
greyscale images of 28 x 28 pixels, each of one article from Zalando's catalogue, equally many per class.
Licence of the data: MIT, © 2017 Zalando SE. Of the 60,000 training images, a share of {val_fraction} was held
out for validation; the network was trained only on the others.

## Training procedure

    {entry.command}

The weights are from {chosen}. The options of the run, except
those that are null:

{options}

## Results

Top-1 accuracy on all {full_count} test images, by seed:

| seed | test top-1 |
|---|---|
{seeds}

{spread}. The standard error of one such accuracy is {full_error:.4f}.
This file is from the median run, seed {header.seed}; the test images were used for no other choice.

Measured again by `cbam-lightning weights verify`, this file classifies correctly
{full} of all test images, and {embedded} of the {embedded_count} that the
package ships (standard error {embedded_error:.4f}). Correctly classified test images per class:

| class | correct | of |
|---|---|---|
{by_class}

## Intended use

Research and teaching on attention in convolutional networks: fine-tuning, attention maps, and tests that need
a network of known accuracy. It is not meant for decisions about people or goods.

## Limits

- It was trained on small greyscale images from one catalogue: one centred article each, on black. Its
  accuracy on other images was not measured.
- It predicts one of its ten classes for any image. The calibration of its probabilities was not measured.
  Its weakest class is {weakest}.
- All seeds share one test set and one validation split, so their spread only shows the effect
  of the seed. A difference of less than two standard errors does not rank two networks.

## The file

`{entry.name}.safetensors`: weights and a header, no code. Licence of the weights: {entry.licence}. Written by
cbam_lightning {header.version}. SHA-256:

    {entry.sha256}
"""
_SELECTION = {
    None: "the end of the last epoch",
    "val/top1": "the epoch with the highest validation accuracy",
}


def model_card(
    entry: Entry, header: Header, config: Mapping[str, Any], full: Measured, embedded: Measured
) -> str:
    """Write the model card of a shipped checkpoint.

    Args:
        entry: Entry of the table, with the accuracies of all seeds.
        header: Header of the file.
        config: Configuration of the run.
        full: Accuracy on all test images.
        embedded: Accuracy on the test images that the package ships.

    Returns:
        Markdown.
    """
    names = header.class_names or FashionMNIST.class_names
    by_class = list(zip(names, full.right, full.total, strict=True))
    weakest = min(by_class, key=lambda row: row[1] / row[2])
    monitor = config["checkpoint"]["monitor"]
    mean, std = (", ".join(map(str, values or ())) for values in (header.mean, header.std))
    return _CARD.format(
        entry=entry,
        header=header,
        attention="without attention" if header.attention == "none" else f"with `{header.attention}`",
        num_bytes=f"{entry.num_bytes:,}",
        mean=mean,
        std=std,
        classes=", ".join(names),
        val_fraction=config["data"]["init_args"]["val_fraction"],
        chosen=_SELECTION.get(monitor, f"the epoch with the best {monitor}"),
        options=_options(config),
        full_count=f"{sum(full.total):,}",
        embedded_count=f"{sum(embedded.total):,}",
        seeds="\n".join(f"| {seed} | {top1:.4f} |" for seed, top1 in entry.seeds.items()),
        spread=entry.spread().capitalize(),
        full=full,
        embedded=embedded,
        full_error=_standard_error(full),
        embedded_error=_standard_error(embedded),
        by_class="\n".join(f"| {name} | {right} | {total} |" for name, right, total in by_class),
        weakest=f"{weakest[0]} ({weakest[1]} of {weakest[2]})",
    )


def _standard_error(measured: Measured) -> float:
    return math.sqrt(measured.top1 * (1 - measured.top1) / sum(measured.total))


def _options(config: Mapping[str, Any]) -> str:
    """Return the options of the run as an indented block."""
    kept = {
        "model": _present(config["model"]["init_args"]),
        "data": _present({**config["data"]["init_args"], "root": None}),
        "trainer": {"max_epochs": config["trainer"]["max_epochs"]},
    }
    lines = yaml.safe_dump(kept, sort_keys=False).splitlines()
    return "\n".join(f"    {line}" for line in lines)


def _present(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _present(item) for key, item in value.items() if item is not None}
    return value
