"""``cbam-lightning benchmark``: measure, print the reports, and write them to files."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from cbam_lightning.benchmarks import options as benchmark_options
from cbam_lightning.cli.command_line import Folder, Group
from cbam_lightning.errors import UsageError
from cbam_lightning.files import check_unwritten

if TYPE_CHECKING:
    from cbam_lightning.benchmarks.measurements import Report


def attention(options: benchmark_options.AttentionOptions, *, out: Folder | None = None) -> None:
    """Measure time and memory of an attention module, compared with copying its input.

    Args:
        options: What to measure, and how.
        out: Write attention*.json and attention*.png to this folder.
    """
    _run("attention", options, out, "attention")


def network(options: benchmark_options.NetworkOptions, *, out: Folder | None = None) -> None:
    """Measure time and memory of a training step, with and without attention.

    Args:
        options: What to measure, and how.
        out: Write network*.json and network*.png to this folder.
    """
    _run("network", options, out, "network")


def data(options: benchmark_options.ReadingOptions, *, out: Folder | None = None) -> None:
    """Measure the images/s of reading, decoding and cropping.

    Args:
        options: What to measure, and how.
        out: Write data.json and data.png to this folder.
    """
    _run("reading", options, out, "data")


def gradcam(options: benchmark_options.GradCAMOptions, *, out: Folder | None = None) -> None:
    """Measure the time of Grad-CAM, compared with the passes that it needs.

    Args:
        options: What to measure, and how.
        out: Write gradcam.json and gradcam.png to this folder.
    """
    _run("gradcam", options, out, "gradcam")


def loop(options: benchmark_options.LoopOptions, *, out: Folder | None = None) -> None:
    """Measure the images/s of `fit`, compared with a plain PyTorch loop.

    Args:
        options: What to measure, and how.
        out: Write loop.json and loop.png to this folder.
    """
    _run("loop", options, out, "loop")


def _run(name: str, options: benchmark_options.Options, out: str | None, file_name: str) -> None:
    """Run ``time_NAME`` unless the folder contains earlier results, print the reports, and save them."""
    if out is not None:
        folder = Path(out)
        earlier = [path for ending in ("json", "png") for path in folder.glob(f"{file_name}*.{ending}")]
        check_unwritten(*sorted(earlier) if folder.is_dir() else [folder])
    import torch

    from cbam_lightning.benchmarks.report_files import save
    from cbam_lightning.benchmarks.table import render, render_conditions

    module = import_module(f"cbam_lightning.benchmarks.time_{name}")
    try:
        reports: list[Report] = getattr(module, f"time_{name}")(options)
    except torch.OutOfMemoryError as error:
        raise UsageError(f"{error} Give smaller sizes.") from error
    print("\n\n".join(map(render, reports)))
    print(f"\n{render_conditions(reports[0])}")
    if out is not None:
        for report in reports:
            print("Written: " + ", ".join(map(str, save(report, out))))


BENCHMARK = Group(
    "Measure attention, networks, reading images and the training loop.",
    {"attention": attention, "network": network, "data": data, "gradcam": gradcam, "loop": loop},
)
