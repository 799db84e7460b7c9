"""``cbam-lightning explain``: what networks look at, and what people think of it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cbam_lightning.commands import Parser
from cbam_lightning.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from cbam_lightning.data.viewing import ImagesToView
    from cbam_lightning.explain.looking import Looked
    from cbam_lightning.explain.subjects import Subject
    from cbam_lightning.weights import Header


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
    _explain(parser.parse_args(args))


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
    parser.add_argument("--imports", nargs="+", default=[], metavar="MODULE", help="that register networks")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write to")


def _explain(given: argparse.Namespace) -> None:
    from cbam_lightning.attention.gate import check_positive
    from cbam_lightning.explain.report import Report

    check_positive("rows", given.rows)
    if given.steps < 0:
        message = f"--steps is {given.steps}; allowed: 0 for none, or the number of steps."
        raise UsageError(message)
    subjects, images = _open(given)
    report = Report(subjects, given.out, given.rows)
    written = report.write(_look(given, subjects, images, given.steps, given.masks))
    print(f"{report.summary.table()}\n\nIn brackets: 95 % intervals of the mean over {len(images)} images.")
    print("Written: " + ", ".join(map(str, written)))


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
    from cbam_lightning.explain.survey import write_survey

    subjects, images = _open(given)
    looked = _look(given, subjects, images)
    if given.only_right:
        looked = (one for one in looked if all(look.predicted == look.target for look in one.looks))
    labels = [subject.label for subject in subjects]
    page, key = write_survey(looked, labels, subjects[0].class_names, Path(given.out))
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
    from cbam_lightning.explain import tally as counting

    result = counting.tally(Path(given.key), [Path(path) for path in given.votes])
    print(counting.terminal(result))
    if given.out:
        print("Written: " + ", ".join(map(str, counting.save(result, Path(given.out)))))


_ACTIONS = {"survey": survey, "tally": tally}


def _open(given: argparse.Namespace) -> tuple[list[Subject], ImagesToView]:
    """Return the networks and the images, both of which are checked before anything is computed."""
    from cbam_lightning.attention.gate import check_positive
    from cbam_lightning.data.viewing import image_files, spread
    from cbam_lightning.explain.subjects import open_subjects
    from cbam_lightning.measuring import choose_device
    from cbam_lightning.trainer_setup import import_modules

    check_positive("batch_size", given.batch_size)
    if (given.images is None) == (given.data is None):
        message = "give either --images PATH or --data NAME: what the networks shall look at."
        raise UsageError(message)
    import_modules(given.imports)
    subjects = open_subjects(given.checkpoints, given.layer, choose_device(given.device))
    header = subjects[0].header
    _target(given, subjects[0])
    if given.images is not None:
        dataset = image_files(given.images, _size(header), header.in_channels, subjects[0].class_names)
        return subjects, spread(dataset, given.limit)
    return subjects, spread(_split(given, header), given.limit)


def _split(given: argparse.Namespace, header: Header) -> Any:
    """Return the data set of a data module's split, whose images and classes are those of the networks."""
    from cbam_lightning import data
    from cbam_lightning.data.class_folders import ClassFolderModule

    found = {name: getattr(data, name) for name in data.__all__}
    modules = {
        n: c
        for n, c in found.items()
        if issubclass(c, data.ImageDataModule) and c is not data.ImageDataModule
    }
    if given.data not in modules:
        raise unknown_name(kind="data module", given=given.data, allowed=modules)
    if given.split not in ("test", "val"):
        raise unknown_name(kind="split", given=given.split, allowed=("test", "val"))
    chosen = modules[given.data]
    options: dict[str, Any] = {"root": given.root} if given.root else {}
    if issubclass(chosen, ClassFolderModule):
        options["size_px"] = header.size_px
    if chosen is data.ImageFolder:
        options["in_channels"] = header.in_channels
    if chosen is data.FashionMNIST and given.root:
        options["source"] = "full"
    try:
        module = chosen(**options)
    except TypeError:
        message = f"{given.data} needs --root, the folder of its files."
        raise UsageError(message) from None
    _check_fits(module, header, given.data)
    return module.split_set(given.split)


def _check_fits(module: Any, header: Header, name: str) -> None:
    theirs = {"size_px": header.size_px, "in_channels": header.in_channels, "num_classes": header.num_classes}
    wrong = [f"{key} {value}" for key, value in theirs.items() if getattr(module, key) != value]
    if header.class_names is not None and tuple(header.class_names) != tuple(module.class_names):
        wrong = wrong or ["other classes"]
    if wrong:
        message = f"the networks are for images and classes other than those of {name}: {', '.join(wrong)}."
        raise UsageError(message)


def _target(given: argparse.Namespace, subject: Subject) -> int | None:
    from cbam_lightning.explain.gradcam import PREDICTED

    if given.target is None or given.target in subject.class_names:
        return None if given.target is None else subject.class_names.index(given.target)
    if given.target == "predicted":
        return PREDICTED
    raise unknown_name(kind="class", given=given.target, allowed=["predicted", *subject.class_names])


def _size(header: Header) -> int:
    return header.size_px or 0  # a subject without a size is refused


def _look(
    given: argparse.Namespace,
    subjects: list[Subject],
    images: ImagesToView,
    steps: int = 0,
    masks: str | None = None,
) -> Iterator[Looked]:
    """Look at the images batch by batch, with a progress bar."""
    from tqdm import tqdm

    from cbam_lightning.data.viewing import read_mask
    from cbam_lightning.explain.looking import Picture, look

    size = _size(subjects[0].header)
    mask = partial(read_mask, masks, size_px=size) if masks else lambda name: None
    target = _target(given, subjects[0])
    with tqdm(total=len(images), unit="image", disable=None) as bar:
        for batch in images.batches(given.batch_size):
            pictures = [Picture(*one, mask=mask(one.name)) for one in batch]
            yield from look(subjects, pictures, target, steps)
            bar.update(len(batch))
