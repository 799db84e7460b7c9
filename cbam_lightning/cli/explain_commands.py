"""``cbam-lightning explain``: show what networks look at, and ask people about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, fields
from pathlib import Path
from typing import Annotated

from cbam_lightning.cli.command_line import Folder, Group
from cbam_lightning.cli.own_options import in_own_options
from cbam_lightning.errors import UsageError

_KeyFile = Annotated[Path, "KEY"]
_VoteFile = Annotated[Path, "VOTES"]


@dataclass(frozen=True)
class ExplainInputs:
    """Networks, and the images to show them.

    Attributes:
        checkpoints: Names from `weights list`, or .safetensors or .ckpt files. LABEL=CHECKPOINT sets a label.
        images: An image, or a folder of images or class folders.
        data: A data module instead of images, such as FashionMNIST.
        root: Folder of the data module's files.
        split: Split of the data module: test or val.
        limit: Number of images, spread evenly over all. Default: all.
        layer: Layer whose output Grad-CAM weights. Default: the last stage.
        target: Class to explain: its name, its number from 0 (a name counts where it is both), or predicted.
            Default: the label of each image, or else the predicted class.
        size_px: Height and width at which the networks see the images. Default: what the checkpoints say.
        batch_size: Images per batch.
        device: Device, such as cpu or cuda.
    """

    checkpoints: Sequence[Annotated[str, "CHECKPOINT"]]
    _: KW_ONLY
    images: Annotated[str, "PATH"] | None = None
    data: Annotated[str, "NAME"] | None = None
    root: Folder | None = None
    split: str = "test"
    limit: int | None = None
    layer: str | None = None
    target: Annotated[str, "CLASS"] | None = None
    size_px: int | None = None
    batch_size: int = 32
    device: str = "cpu"


_OPTIONS = [option.name for option in fields(ExplainInputs)]


def explain(
    inputs: ExplainInputs, *, out: Folder, steps: int = 16, masks: Folder | None = None, rows: int = 8
) -> None:
    """Show what networks look at: figure.png as in the paper, an interactive report, and all values as JSON.

    For detectors, the detected boxes are drawn. `explain survey` writes a page that asks people which network
    looks at the object best, and `explain tally` counts their answers.

    Args:
        inputs: Networks and images.
        out: Folder to write to.
        steps: Steps of the deletion and insertion curves; 0 for no curves.
        masks: Folder with NAME.png for NAME.jpg, of its size, not black where the object is. Where two images
            have the same name, in subfolders like theirs.
        rows: Number of images in figure.png.
    """
    from cbam_lightning.checks import check_positive
    from cbam_lightning.cli.explain_inputs import detect_objects, explain_classifiers
    from cbam_lightning.explain.detections import write_detections
    from cbam_lightning.explain.explanation_report import write_report
    from cbam_lightning.explain.networks import source_kind

    check_positive("rows", rows)
    with in_own_options(_OPTIONS):
        if source_kind(inputs.checkpoints[0]) == "detector":
            detectors, images, detected = detect_objects(inputs, masks)
            written = write_detections(detectors, detected, Path(out), rows)
        else:
            if steps < 0:
                raise UsageError(f"--steps is {steps}; allowed: 0 for no curves, or the number of steps.")
            networks, images, explained = explain_classifiers(inputs, steps, masks)
            written, summary = write_report(networks, explained, out, rows, images.skipped)
            print(f"{summary.table()}\n")
    print("\n".join([*images.notes(), "Written: " + ", ".join(map(str, written))]))


def survey(inputs: ExplainInputs, *, out: Folder, only_right: bool = False) -> None:
    """Write a page that asks people which map marks the object best.

    survey.html is one file to send to people; it shows the maps in random order and without names. key.json
    says which map is whose, and stays with you.

    Args:
        inputs: Networks and images.
        out: Folder to write to.
        only_right: Show only images that all networks classify correctly, as in the paper.
    """
    from cbam_lightning.cli.explain_inputs import all_right, explain_classifiers
    from cbam_lightning.explain.survey.page import write_survey

    with in_own_options(_OPTIONS):
        networks, images, explained = explain_classifiers(inputs)
        if only_right:
            explained = all_right(explained)
        labels = [network.label for network in networks]
        page, key = write_survey(explained, labels, networks[0].class_names, Path(out))
    print("\n".join([*images.notes(), f"Written: {page}, {key}"]))
    print(f"Send {page} to people; each of them sends back a vote file. Then:")
    print(f"  cbam-lightning explain tally {key} VOTES... --out DIR")


def tally(key: _KeyFile, votes: Sequence[_VoteFile], *, out: Annotated[Path, "DIR"] | None = None) -> None:
    """Count the answers to a survey.

    Args:
        key: The survey's key.json.
        votes: The vote files that people sent back.
        out: Write tally.md, .csv and .png to this folder.
    """
    from cbam_lightning.explain import survey as counting

    result = counting.count_votes(key, votes)
    print(counting.terminal(result))
    if out:
        print("Written: " + ", ".join(map(str, counting.save(result, out))))


EXPLAIN = Group(
    "Show what networks look at, and ask people about it.",
    {"survey": survey, "tally": tally},
    default=explain,
)
