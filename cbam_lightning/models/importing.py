"""Weights of other code as a checkpoint of ours: find out what they are, and write the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from cbam_lightning import __version__
from cbam_lightning.errors import UsageError
from cbam_lightning.models.factory import build
from cbam_lightning.models.layout_detection import Recognised, check_same, recognise
from cbam_lightning.models.registry import MODELS
from cbam_lightning.user_code.class_paths import import_class_path
from cbam_lightning.weights import Header, LoadReport, load_into, read_state_dict, save_checkpoint, translate
from cbam_lightning.weights.layouts import LAYOUTS
from cbam_lightning.weights.loading import strip_wrappers
from cbam_lightning.weights.translate import complete

# https://docs.pytorch.org/vision/stable/models.html: what networks for the 1000 classes of ImageNet expect
_IMAGENET = {"size_px": 224, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
# What training scripts call their best top-1 accuracy, in percent: the authors' train_imagenet.py, and
# https://github.com/pytorch/examples/blob/main/imagenet/main.py
_ACCURACIES = ("best_prec1", "best_acc1")


def import_weights(
    source: str | Path,
    out: str | Path,
    *,
    network: str | None = None,
    attention: str | None = None,
    attention_options: Mapping[str, Any] | None = None,
    network_options: Mapping[str, Any] | None = None,
    dataset: str | None = None,
    class_names: Sequence[str] | None = None,
) -> tuple[Header, str]:
    """Write weights of other code as a ``.safetensors`` file of ours.

    Args:
        source: A file that ``cbam_lightning.weights.read_state_dict`` reads.
        out: The file to write, which must not exist.
        network: Name for ``create_model``; left out, a ResNet is found out. Others, such as
            ``torchvision/NAME``, have to be given, and their keys stay as they are.
        attention: Name for ``create_attention``; left out, it is found out.
        attention_options: Those that leave no trace in a file, such as CBAM's ``pools``.
        network_options: As before, for example a ResNet's ``stride_in``.
        dataset: What the network was trained on, for the header.
        class_names: In the order of the logits, for the header.

    Returns:
        The header that was written, and what was read and how it fitted, for people.

    Raises:
        UsageError: The file is damaged, holds code or belongs to no network that is known; ``out`` exists or
            has another ending.
        OSError: The file cannot be written.
    """
    import_class_path(network, "--network")
    import_class_path(attention, "attention")
    if Path(out).exists():
        message = f"{out} exists; remove it, or give another name."
        raise UsageError(message)
    theirs, extras = read_state_dict(source)
    options = {"attention_options": attention_options, "network_options": network_options}
    try:
        found, state, origin = _understand(theirs, {"network": network, "attention": attention, **options})
        built = build(*found)
        check_same(state, built.state_dict(), found.network)
        report = load_into(built, state)
    except UsageError as error:
        message = f"{source} cannot be imported: {error}"
        raise UsageError(message) from None
    header = Header.from_dict(
        {
            **found._asdict(),
            **(_IMAGENET if (found.num_classes, found.in_channels) == (1000, 3) else {}),
            "dataset": dataset,
            "class_names": class_names,
            "metrics": _reported(extras),
            "averaged": extras["averaged"],
            "version": __version__,
        },
        str(source),
    )
    save_checkpoint(out, built.state_dict(), header)
    return header, _describe(source, origin, theirs, report)


def _understand(
    theirs: Mapping[str, Tensor], given: Mapping[str, Any]
) -> tuple[Recognised, dict[str, Tensor], str]:
    """Return the arguments of the network, its state dict under our names, and who wrote it."""
    if given["network"] is None or given["network"] in MODELS:
        layout, state = translate(theirs)
        return recognise(state, **given), state, LAYOUTS[layout].origin
    state = complete(strip_wrappers(theirs))
    layers = [value.shape for key, value in state.items() if key.endswith("weight") and value.ndim > 1]
    if not layers:
        message = "it has no weight of a layer."
        raise UsageError(message)
    # the stem is the first of them and sees the images, the classifier is the last
    found = Recognised(
        given["network"],
        given["attention"] or "none",
        dict(given["attention_options"] or {}),
        dict(given["network_options"] or {}),
        num_classes=layers[-1][0],
        in_channels=layers[0][1],
    )
    return found, state, given["network"]


def _reported(extras: Mapping[str, Any]) -> dict[str, float]:
    """Return the accuracy that the file tells, as a fraction."""
    percent = next((extras[name] for name in _ACCURACIES if name in extras), None)
    plausible = isinstance(percent, (int, float)) and not isinstance(percent, bool) and 0 <= percent <= 100
    return {"reported/top1": percent / 100} if plausible and percent is not None else {}


def _describe(source: str | Path, origin: str, theirs: Mapping[str, Tensor], report: LoadReport) -> str:
    return f"{source}: {len(theirs)} values in the layout of {origin}\n{report}"
