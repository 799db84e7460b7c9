"""The model card of a checkpoint of Fashion-MNIST: where it comes from, what it can do and what not."""

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

`{header.network}` {attention}, trained to tell the 10 classes of Fashion-MNIST apart; {num_bytes} bytes.

## How to use it

    from cbam_lightning import create_model
    network = create_model("{header.network}", weights="{entry.name}").eval()

It takes grey images (N, 1, 28, 28) with values from 0 (black) to 1 (white), less the mean {mean} and
divided by {std}, and gives logits (N, 10) for: {classes}.

    cbam-lightning predict --model.weights {entry.name} --data FashionMNIST
    cbam-lightning fit --model.weights {entry.name} --data ImageFolder --data.root photos \\
      --data.size_px 28 --data.in_channels 1 --data.mean '[{mean}]' --data.std '[{std}]'
    cbam-lightning weights verify {entry.name}

## Training data

Fashion-MNIST (https://github.com/zalandoresearch/fashion-mnist, https://arxiv.org/abs/1708.07747):
grey pictures of 28 by 28 pixels of single articles in Zalando's catalogue, as many of each class. Licence
of the data: MIT, © 2017 Zalando SE. Of the 60,000 training images a share of {val_fraction} was held out for
validation; the network was trained on the others, and on no test image.

## Training procedure

    {entry.command}

The values are those of {chosen}. The options of the run, without
what is null:

{options}

## Results

Top-1 accuracy on all {full_count} test images, by the seed of the run:

| seed | test top-1 |
|---|---|
{seeds}

{spread}. The standard error of one such accuracy is {full_error:.4f}.
This file is that of the median, seed {header.seed}; the test images decided nothing else.

This file, measured again by `cbam-lightning weights verify`: {full} of all test images,
and {embedded} of the {embedded_count} that the package ships (standard error
{embedded_error:.4f}). Of all test images of each class it names rightly:

| class | right | of |
|---|---|---|
{by_class}

## Intended use

Research and teaching on attention in convolutional networks: to fine-tune from, to draw attention maps of,
and as a network of known accuracy in tests. It is not meant for decisions about people or goods.

## Limits

- It has seen small grey pictures of one catalogue: one article each, centred, on black. How it does on
  other pictures was not measured.
- It answers with one of its ten classes whatever it is shown. Whether its probabilities are calibrated was
  not measured. Its weakest class is {weakest}.
- All seeds share one test set and one choice of validation images, so their spread shows the luck of the
  seed only. Networks whose accuracies differ by less than two standard errors are not ranked by them.

## The file

`{entry.name}.safetensors`: values and a header, no code. Licence of the values: {entry.licence}. Written by
cbam_lightning {header.version}. SHA-256:

    {entry.sha256}
"""
_SELECTION = {
    None: "the end of the last epoch",
    "val/top1": "the epoch that was most accurate on the images held out",
}


def model_card(
    entry: Entry, header: Header, config: Mapping[str, Any], full: Measured, embedded: Measured
) -> str:
    """Write the model card of a shipped checkpoint.

    Args:
        entry: Of the table, with the accuracies of all seeds.
        header: Of its file.
        config: Of the run that it comes from.
        full: On all test images.
        embedded: On those that come with the package.

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
    """Return the options that made the network, as an indented block."""
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
