"""Import weights of other code: identify them, and write a checkpoint with our keys and header."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from cbam_lightning import __version__
from cbam_lightning.checks import is_finite
from cbam_lightning.errors import UsageError
from cbam_lightning.models.factory import build
from cbam_lightning.models.layout_detection import DetectedNetwork, detect_network
from cbam_lightning.models.registry import MODELS
from cbam_lightning.user_code.class_paths import import_class_path
from cbam_lightning.weights import Header, load_into, read_state_dict, save_checkpoint, translate
from cbam_lightning.weights.layouts import LAYOUTS
from cbam_lightning.weights.loading import compare, strip_wrappers
from cbam_lightning.weights.translate import complete, implied_options
from cbam_lightning.weights.wrappers import unwrap

# What networks for the 1000 classes of ImageNet expect: https://docs.pytorch.org/vision/stable/models.html
_IMAGENET = {"size_px": 224, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
# Names of the best top-1 accuracy, in percent, in training scripts: the authors' train_imagenet.py, and
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
    """Write weights of other code as a ``.safetensors`` file with our keys and header.

    Args:
        source: A file that ``cbam_lightning.weights.read_state_dict`` reads.
        out: The file to write, which must not exist.
        network: Name for ``create_model``. Default: a detected ResNet. Other networks, such as
            ``torchvision/NAME``, have to be named, and their keys are not translated.
        attention: Name for ``create_attention``. Default: detected. Attention without parameters leaves no
            trace in a file.
        attention_options: Options that leave no trace either, such as CBAM's ``pools``.
        network_options: Likewise, for example a ResNet's ``stride_in``.
        dataset: The training data set, for the header.
        class_names: Names in the order of the logits, for the header.

    Returns:
        The header that was written, and a report of what was read and loaded.

    Raises:
        UsageError: The file is damaged, holds code or belongs to no known network; ``out`` exists or has
            another ending.
        OSError: The file cannot be written.
    """
    import_class_path(network, "--network")
    import_class_path(attention, "attention")
    if Path(out).exists():
        raise UsageError(f"{out} exists; remove it, or give another name.")
    original, extras = read_state_dict(source)
    names = (network, attention, attention_options, network_options)
    try:
        for state, others in _candidates(original, network):
            left_out = ", ".join(others)
            detected, translated, layout = _detect(state, *names)
            built = build(*detected)
            report = compare(built.state_dict(), translated)
            if not report.faults(head=""):
                break
        else:
            faults = "; ".join(line.strip() for line in str(report).splitlines()[1:4])
            raise UsageError(
                f"the keys are not those of {detected.network} with attention {detected.attention}: {faults}."
            )
        load_into(built, translated, source="it")
    except UsageError as error:
        raise UsageError(f"{source} cannot be imported: {error}") from None
    header = Header.from_dict(
        {
            **detected._asdict(),
            **(_IMAGENET if (detected.num_classes, detected.in_channels) == (1000, 3) else {}),
            "dataset": dataset,
            "class_names": class_names,
            "metrics": _reported(extras),
            "averaged": extras["averaged"],
            "version": __version__,
        },
        str(source),
    )
    save_checkpoint(out, built.state_dict(), header)
    origin = LAYOUTS[layout].origin if layout else detected.network
    lines = [f"{source}: {len(original)} values in the layout of {origin}", str(report)]
    if layout and LAYOUTS[layout].assumed:
        lines.append(f"  assumed, since no value shows it: {LAYOUTS[layout].assumed}")
    if left_out:
        lines.append(f"  left out, beside the network: {left_out}")
    return header, "\n".join(lines)


def _candidates(
    original: Mapping[str, Tensor], network: str | None
) -> list[tuple[Mapping[str, Tensor], tuple[str, ...]]]:
    """Return what may be the network's own values, and which keys of the file each lacks."""
    # a network that is not ours may itself hold everything in an attribute `model`
    as_it_is: list[tuple[Mapping[str, Tensor], tuple[str, ...]]] = [(original, ())]
    return [*(as_it_is if network is not None and network not in MODELS else []), unwrap(original)]


def _detect(
    original: Mapping[str, Tensor],
    network: str | None,
    attention: str | None,
    attention_options: Mapping[str, Any] | None,
    network_options: Mapping[str, Any] | None,
) -> tuple[DetectedNetwork, dict[str, Tensor], str | None]:
    """Return the arguments of the network, its state dict with our keys, and the layout of the file."""
    if network is None or network in MODELS:
        layout, state = translate(original)
        known = {**implied_options(original), **(attention_options or {})}
        detected = detect_network(state, network, attention, known, network_options)
        return detected, state, layout
    state = complete(strip_wrappers(original))
    layers = [value.shape for key, value in state.items() if key.endswith("weight") and value.ndim > 1]
    if not layers:
        raise UsageError("it has no weights of a layer.")
    options = dict(attention_options or {}), dict(network_options or {})
    # the first layer takes the images, the last one is the classifier
    detected = DetectedNetwork(network, attention or "none", *options, layers[-1][0], layers[0][1])
    return detected, state, None


def _reported(extras: Mapping[str, Any]) -> dict[str, float]:
    """Return the accuracy that the file states, as a fraction."""
    percent = next((extras[name] for name in _ACCURACIES if name in extras), None)
    return {"reported/top1": percent / 100} if is_finite(percent) and 0 <= percent <= 100 else {}
