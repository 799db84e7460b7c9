"""``cbam-lightning explain``: what networks look at, and what people think of it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cbam_lightning.cli.commands import Parser
from cbam_lightning.errors import UsageError

if TYPE_CHECKING:
    from cbam_lightning.data.viewing import ImagesToView
    from cbam_lightning.explain.explanations import ExplainedImage
    from cbam_lightning.explain.networks import ExplainedNetwork


def explain(args: list[str]) -> None:
    """Explain networks, ask people about it, or count their answers."""
    if args and args[0] in _ACTIONS:
        _ACTIONS[args[0]](args[1:])
        return
    text = (
        "Show what networks look at: the figure of the paper, a report to sort and filter, and every number. "
        "`explain survey` makes a page that asks people, `explain tally` counts their answers."
    )
    parser = Parser(prog="cbam-lightning explain", description=text)
    _add_what(parser)
    parser.add_argument(
        "--steps", type=int, default=16, help="of the deletion and insertion curves; 0: none; default: 16"
    )
    parser.add_argument("--masks", metavar="DIR", help="NAME.png for NAME.jpg: not black where the object is")
    parser.add_argument("--rows", type=int, default=8, help="images in figure.png; default: 8")
    given = parser.parse_args(args)
    from cbam_lightning.explain.networks import source_kind

    kinds = {"classifier": _explain, "detector": _draw_detections}
    kinds[source_kind(given.checkpoints[0])](given)


def _add_what(parser: Parser) -> None:
    parser.add_argument(
        "checkpoints",
        nargs="+",
        metavar="CHECKPOINT",
        help="of `weights list`, or a .safetensors or .ckpt; LABEL=CHECKPOINT gives it another name",
    )
    parser.add_argument("--images", metavar="PATH", help="an image, or a folder of images or class folders")
    parser.add_argument("--data", metavar="NAME", help="a data module instead, such as FashionMNIST")
    parser.add_argument("--root", help="folder of the data module's files")
    parser.add_argument("--split", default="test", help="of the data module: test or val; default: test")
    parser.add_argument("--limit", type=int, help="so many images, spread evenly over all")
    parser.add_argument("--layer", help="whose output Grad-CAM weights; default: the last stage")
    parser.add_argument(
        "--target",
        metavar="CLASS",
        help="or predicted; default: each image's own class, else the predicted one",
    )
    parser.add_argument("--batch-size", type=int, default=32, help="images at a time; default: 32")
    parser.add_argument("--device", default="cpu", help="default: cpu")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write to")


def _explain(given: argparse.Namespace) -> None:
    from cbam_lightning.checks import check_positive
    from cbam_lightning.cli.explain_inputs import open_classification
    from cbam_lightning.explain.explanation_report import write_report

    check_positive("rows", given.rows)
    if given.steps < 0:
        message = f"--steps is {given.steps}; allowed: 0 for none, or the number of steps."
        raise UsageError(message)
    networks, images = open_classification(given)
    explained = _explanations(given, networks, images, given.steps, given.masks)
    written, summary = write_report(networks, explained, given.out, given.rows)
    print(f"{summary.table()}\n\nIn brackets: 95 % intervals of the mean over {len(images)} images.")
    print("Written: " + ", ".join(map(str, written)))


def _draw_detections(given: argparse.Namespace) -> None:
    from tqdm import tqdm

    from cbam_lightning.checks import check_positive
    from cbam_lightning.cli.explain_inputs import open_detection
    from cbam_lightning.explain.detections import detect, write_detections

    check_positive("rows", given.rows)
    detectors, scenes = open_detection(given)
    detected = (one for batch in scenes.batches(given.batch_size) for one in detect(detectors, batch))
    bar = tqdm(detected, total=len(scenes), unit="image", disable=None)
    print("Written: " + ", ".join(map(str, write_detections(detectors, bar, Path(given.out), given.rows))))


def survey(args: list[str]) -> None:
    """Write a page that asks which map marks the object best, and the key to its answers."""
    text = (
        "Write survey.html, one file to send to people, which shows the maps in random order without names, "
        "and key.json, which says whose they are and stays with you."
    )
    parser = Parser(prog="cbam-lightning explain survey", description=text)
    _add_what(parser)
    parser.add_argument(
        "--only-right", action="store_true", help="only images whose class all networks predict, as the paper"
    )
    given = parser.parse_args(args)
    from cbam_lightning.cli.explain_inputs import open_classification
    from cbam_lightning.explain.survey.page import write_survey

    networks, images = open_classification(given)
    explained = _explanations(given, networks, images)
    if given.only_right:
        explained = (one for one in explained if all(e.predicted == e.target for e in one.explanations))
    labels = [network.label for network in networks]
    page, key = write_survey(explained, labels, networks[0].class_names, Path(given.out))
    print(f"Written: {page}, {key}\nSend {page} to people; each sends back a vote file. Then:")
    print(f"  cbam-lightning explain tally {key} VOTES... --out DIR")


def tally(args: list[str]) -> None:
    """Count the answers to a survey."""
    text = "Join the key of a survey with the vote files that people sent back."
    parser = Parser(prog="cbam-lightning explain tally", description=text)
    parser.add_argument("key", metavar="KEY", help="key.json of the survey")
    parser.add_argument("votes", nargs="+", metavar="VOTES", help="vote files")
    parser.add_argument("--out", metavar="DIR", help="write tally.md, .csv and .png there")
    given = parser.parse_args(args)
    from cbam_lightning.explain import survey as counting

    result = counting.count_votes(Path(given.key), [Path(path) for path in given.votes])
    print(counting.terminal(result))
    if given.out:
        print("Written: " + ", ".join(map(str, counting.save(result, Path(given.out)))))


_ACTIONS = {"survey": survey, "tally": tally}


def _explanations(
    given: argparse.Namespace,
    networks: list[ExplainedNetwork],
    images: ImagesToView,
    steps: int = 0,
    masks: str | None = None,
) -> Iterator[ExplainedImage]:
    """Explanation at the images batch by batch, with a progress bar."""
    from tqdm import tqdm

    from cbam_lightning.cli.explain_inputs import size_of, target_of
    from cbam_lightning.data.viewing import read_mask
    from cbam_lightning.explain.explanations import InputImage, explain_images

    size = size_of(networks[0].header)
    mask = partial(read_mask, masks, size_px=size) if masks else lambda name: None
    target = target_of(given, networks[0])
    with tqdm(total=len(images), unit="image", disable=None) as bar:
        for batch in images.batches(given.batch_size):
            inputs = [InputImage(*one, mask=mask(one.name)) for one in batch]
            yield from explain_images(networks, inputs, target, steps)
            bar.update(len(batch))
