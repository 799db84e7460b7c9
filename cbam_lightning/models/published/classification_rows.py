"""The rows of the paper's classification tables, each with the counts of the same network of ours."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from decimal import Decimal
from importlib.resources import files
from typing import Any, NamedTuple

from cbam_lightning.attention.registry import option_defaults
from cbam_lightning.models.complexity import count_named
from cbam_lightning.models.registry import MODELS
from cbam_lightning.user_code.class_paths import import_class_path

PARAMS_M_TOLERANCE = 0.01
GFLOPS_TOLERANCE = 0.0015

REPRODUCED = "reproduced"
DIFFERS = "differs"
CONTRADICTION = "contradicts the paper's other tables"
NO_FIGURE = "no figure published"
NOT_IN_THE_PAPER = "not in the paper"

_NETWORKS = {
    "ResNet-50": "resnet50",
    "ResNet-101": "resnet101",
    "WideResNet-18 (widen=2.0)": "wide_resnet18_2.0",
    "ResNeXt-50 (32x4d)": "resnext50_32x4d",
    "MobileNet": "mobilenet_v1",
}


class PublishedRow(NamedTuple):
    """A row of the paper, with our names; errors in percent, ``None`` where the paper gives no value.

    Parameters and GFLOPs keep the printed digits: 3.86 may be anything from 3.855 to 3.865.
    """

    table: str
    network: str
    attention: str
    attention_options: dict[str, Any]  # only those that differ from CBAM's defaults
    params_m: Decimal | None
    gflops: Decimal | None
    top1_error: float
    top5_error: float
    contradiction: bool  # the paper's other tables have other values for the same network


class ClassificationRow(NamedTuple):
    """A network and attention with our counts, and the paper's values if there are any.

    ``gflops`` is for the paper's strides, in the first 1x1 convolution of a bottleneck; ``gflops_default`` is
    for those of ``create_model``, in the 3x3 convolution ("v1.5"). They differ only for bottlenecks.
    """

    table: str
    network: str
    attention: str
    attention_options: dict[str, Any]
    size_px: int
    params_m: float
    gflops: float
    gflops_default: float
    published: PublishedRow | None

    def difference(self, name: str) -> float | None:
        """Return our ``params_m`` or ``gflops`` minus the paper's, if it gives a value."""
        published = self.published and getattr(self.published, name)
        return None if published is None else getattr(self, name) - float(published)

    @property
    def status(self) -> str:
        """How our counts compare to the paper: one of the five constants above."""
        if self.published is None:
            return NOT_IN_THE_PAPER
        if self.published.contradiction:
            return CONTRADICTION
        if self.published.params_m is None or self.published.gflops is None:
            return NO_FIGURE
        close = _close(self.params_m, self.published.params_m, PARAMS_M_TOLERANCE)
        close = close and _close(self.gflops, self.published.gflops, GFLOPS_TOLERANCE)
        return REPRODUCED if close else DIFFERS


def published_rows() -> list[PublishedRow]:
    """Read ``classification.csv``, in its order."""
    text = files("cbam_lightning.models.published").joinpath("classification.csv").read_text("utf-8")
    return [_parse(line) for line in csv.DictReader(text.splitlines())]


def rows(extra: Sequence[tuple[str, str]] = (), size_px: int = 224) -> list[ClassificationRow]:
    """Count the network of every published row, at 224 px, and those of ``extra``.

    Args:
        extra: Pairs of network and attention, as for ``create_model``.
        size_px: Height and width of the images for ``extra``.

    Raises:
        UsageError: An unknown name, or a network that does not take images of ``size_px``.
    """
    for names in extra:
        for name in names:
            import_class_path(name, "cbam-lightning table")
    added = [
        ClassificationRow("added", *names, {}, size_px, *_count(*names, _gate(names[1]), size_px), None)
        for names in extra
    ]
    counted: dict[str, tuple[float, float, float]] = {}  # some networks are in several tables of the paper
    published = []
    for row in published_rows():
        named = (row.network, row.attention, row.attention_options, 224)
        if str(named) not in counted:
            counted[str(named)] = _count(*named)
        published.append(ClassificationRow(row.table, *named, *counted[str(named)], row))
    return published + added


def _gate(attention: str) -> dict[str, Any]:
    """Return the option for the gate as published: not every module can be inserted as the identity."""
    return {option: value for option, value in option_defaults(attention).items() if option == "gate"}


def _count(network: str, attention: str, options: dict[str, Any], size_px: int) -> tuple[float, float, float]:
    """Return params_m, gflops and gflops_default of a row."""
    default = count_named(network, attention, options, {}, size_px)
    macs = default.macs
    if network in MODELS and MODELS[network].options.get("block") == "bottleneck":
        macs = count_named(network, attention, options, {"stride_in": "1x1"}, size_px).macs
    return default.params / 1e6, macs / 1e9, default.macs / 1e9


def _parse(line: dict[str, str]) -> PublishedRow:
    return PublishedRow(
        table=line["table"],
        network=_NETWORKS[line["architecture"]],
        attention=line["attention"],
        attention_options=_cbam_options(line) if line["attention"] == "cbam" else {},
        params_m=Decimal(line["params_m"]) if line["params_m"] else None,
        gflops=Decimal(line["gflops"]) if line["gflops"] else None,
        top1_error=float(line["top1_error"]),
        top5_error=float(line["top5_error"]),
        contradiction=line["complexity_reproducible"] == "no",
    )


def _cbam_options(line: dict[str, str]) -> dict[str, Any]:
    options: dict[str, Any] = {
        "arrangement": line["arrangement"],
        "pools": tuple(line["channel_pools"].split("+")),
    }
    if line["spatial_pool"]:
        options |= {"spatial_pool": line["spatial_pool"], "kernel_size": int(line["spatial_kernel"])}
    defaults = option_defaults("cbam")
    return {name: value for name, value in options.items() if value != defaults[name]}


def _close(counted: float, published: Decimal, tolerance: float) -> bool:
    """Return whether both are equal within the tolerance, or in the digits that the paper prints."""
    return abs(counted - float(published)) <= tolerance or Decimal(counted).quantize(published) == published
