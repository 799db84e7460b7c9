"""``cbam-lightning benchmark``: measure, print the reports, and write them to files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cbam_lightning.benchmarks.options import (
    AttentionOptions,
    GradCAMOptions,
    LoopOptions,
    NetworkOptions,
    ReadingOptions,
)
from cbam_lightning.cli.command_line import Folder, Group
from cbam_lightning.errors import UsageError

if TYPE_CHECKING:
    from cbam_lightning.benchmarks.measurements import Report


def attention(options: AttentionOptions, *, out: Folder | None = None) -> None:
    """Measure time and memory of an attention module, compared with copying its input.

    Args:
        options: What to measure, and how.
        out: Write attention*.json and attention*.png to this folder.
    """
    _check_out(out, "attention")
    from cbam_lightning.benchmarks.time_attention import time_attention

    _show(time_attention(options), out)


def network(options: NetworkOptions, *, out: Folder | None = None) -> None:
    """Measure time and memory of a training step, with and without attention.

    Args:
        options: What to measure, and how.
        out: Write network*.json and network*.png to this folder.
    """
    _check_out(out, "network")
    from cbam_lightning.benchmarks.time_network import time_network

    _show(time_network(options), out)


def data(options: ReadingOptions, *, out: Folder | None = None) -> None:
    """Measure the images/s of reading, decoding and cropping.

    Args:
        options: What to measure, and how.
        out: Write data.json and data.png to this folder.
    """
    _check_out(out, "data")
    from cbam_lightning.benchmarks.time_reading import time_reading

    _show([time_reading(options)], out)


def gradcam(options: GradCAMOptions, *, out: Folder | None = None) -> None:
    """Measure the time of Grad-CAM, compared with the passes that it needs.

    Args:
        options: What to measure, and how.
        out: Write gradcam.json and gradcam.png to this folder.
    """
    _check_out(out, "gradcam")
    from cbam_lightning.benchmarks.time_gradcam import time_gradcam

    _show([time_gradcam(options)], out)


def loop(options: LoopOptions, *, out: Folder | None = None) -> None:
    """Measure the images/s of `fit`, compared with a plain PyTorch loop.

    Args:
        options: What to measure, and how.
        out: Write loop.json and loop.png to this folder.
    """
    _check_out(out, "loop")
    from cbam_lightning.benchmarks.time_loop import time_loop

    _show([time_loop(options)], out)


def _check_out(out: str | None, kind: str) -> None:
    """Refuse a folder that contains earlier results before anything is measured."""
    if out is None:
        return
    found = [path for suffix in ("json", "png") for path in sorted(Path(out).glob(f"{kind}*.{suffix}"))]
    if Path(out).exists() and not Path(out).is_dir():
        found = [Path(out)]
    if found:
        raise UsageError(
            f"--out {out}: {found[0]} already exists and is not overwritten; give another folder."
        )


def _show(reports: list[Report], out: str | None) -> None:
    from cbam_lightning.benchmarks.table import render, render_conditions

    print("\n\n".join(map(render, reports)))
    print(f"\n{render_conditions(reports[0])}")
    if out is not None:
        from cbam_lightning.benchmarks.report_files import save

        for report in reports:
            print("Written: " + ", ".join(map(str, save(report, out))))


BENCHMARK = Group(
    "Measure attention, networks, reading images and the training loop.",
    {"attention": attention, "network": network, "data": data, "gradcam": gradcam, "loop": loop},
)
