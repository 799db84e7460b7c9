"""``cbam-lightning models``, ``table`` and ``export``: what concerns networks as such."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Annotated, Literal

from cbam_lightning.errors import UsageError
from cbam_lightning.tables import aligned


def models(
    pattern: str = "*", *, places: bool = False, where: Sequence[str] | None = None, attention: bool = False
) -> None:
    """List the networks and detectors, the attention modules, or where a network gets attention.

    Where `insert_attention` and `--model.attention` put attention into networks that know nothing of it:

        ResNet, other residual networks  every residual branch, before the addition
        VGG, DenseNet, Inception         the last output of every resolution
        Swin, others with channels last  the same, on the channels; not in windows
        ViT, others on tokens            every residual branch, along all tokens
        U-Net, DeepLab, detectors        encoder, backbone, neck; never an output
        TorchScript, DataParallel        refused: insert before converting, wrapping

    Args:
        pattern: Shell pattern of names, such as 'resnet*', 'torchvision/*' or 'timm/*'.
        places: List the points of this network at which attention would be inserted.
        where: Insertion points to list: residual, stage, or patterns of submodule names.
        attention: List the attention modules, each with the place that it has in networks, and its options.
    """
    if attention:
        _list_attention()
        return
    if places or where:
        from cbam_lightning.models import create_model
        from cbam_lightning.models.insertion import describe_insertion_points, plan_insertion

        network = create_model(pattern)
        with warnings.catch_warnings(record=True) as left_out:
            warnings.simplefilter("always")
            points = plan_insertion(network, where)
        print("\n".join([describe_insertion_points(points), *(str(one.message) for one in left_out)]))
        return
    descriptions = _describe(pattern)
    if not descriptions:
        raise UsageError(f"no network is called {pattern!r}; `cbam-lightning models` lists all of them.")
    print("\n".join(aligned(list(descriptions.items()), left=(0, 1))))


def _list_attention() -> None:
    from cbam_lightning.attention.registry import default_placement, describe_attention, option_names

    rows: list[tuple[str, str, str]] = []
    for name, description in describe_attention().items():
        rows.append((name, default_placement(name), description))
        if options := ", ".join(sorted(option_names(name))):
            rows.append(("", "", options))
    print("\n".join(aligned(rows, left=(0, 1, 2))))


def _describe(pattern: str) -> dict[str, str]:
    if "/" in pattern:
        from cbam_lightning.models.external import list_external

        return dict.fromkeys(list_external(pattern), "")
    from cbam_lightning.models import describe_models
    from cbam_lightning.models.detection import describe_detectors

    return describe_models(pattern) | describe_detectors(pattern)


def table(
    networks: Sequence[Annotated[str, "NETWORK"]] = (),
    *,
    attention: Sequence[str] = ("none",),
    size_px: int = 224,
    format: Literal["terminal", "csv", "markdown", "json"] = "terminal",  # noqa: A002 - the name of the option
    detection: bool = False,
) -> None:
    """Print parameters and FLOPs of the paper's networks, published and counted here.

    Args:
        networks: Further networks to count.
        attention: Attention modules for the further networks.
        size_px: Image height and width for the further networks.
        format: Format of the table.
        detection: Print the paper's detectors instead.
    """
    from cbam_lightning.models.published.detection_table import detection_table
    from cbam_lightning.models.published.rendering import table as published_table

    if detection and networks:
        raise UsageError(f"--detection prints the paper's detectors only; leave out {' '.join(networks)}.")
    if detection:
        print(detection_table(format))
        return
    further = [(network, name) for network in networks for name in attention]
    print(published_table(further, size_px=size_px, format=format))


def export(checkpoint: str, out: str | None = None, *, to: Literal["onnx", "torch_export"]) -> None:
    """Write a network as an ONNX or torch.export program, which runs without this package.

    Args:
        checkpoint: A name from `cbam-lightning weights list`, or a .safetensors or .ckpt file.
        out: File to write. Default: beside the checkpoint, with the extension of the format.
        to: Format of the program.
    """
    from cbam_lightning.models.network_export import export_network

    exported = export_network(checkpoint, out, to)
    size = "any size" if exported.dynamic_size else "this size only"
    print(exported.header.describe())
    print(f"{'images':<18}normalised float32, any batch, {size}")
    print(f"{'difference':<18}logits differ from the original network by at most {exported.difference:.1e}")
    print(f"Written: {exported.path}")
