"""``cbam-lightning benchmark``: measure, print the reports, and write them to files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cbam_lightning.benchmarks import options as benchmarks
from cbam_lightning.cli.command_line import Folder, Group
from cbam_lightning.files import check_unwritten

if TYPE_CHECKING:
    from cbam_lightning.benchmarks.measurements import Report


def attention(options: benchmarks.AttentionOptions, *, out: Folder | None = None) -> None:
    """Measure time and memory of an attention module, compared with copying its input.

    Args:
        options: What to measure, and how.
        out: Write attention*.json and attention*.png to this folder.
    """
    from cbam_lightning.benchmarks.time_attention import time_attention

    _run("attention", out, lambda: time_attention(options))


def network(options: benchmarks.NetworkOptions, *, out: Folder | None = None) -> None:
    """Measure time and memory of a training step, with and without attention.

    Args:
        options: What to measure, and how.
        out: Write network*.json and network*.png to this folder.
    """
    from cbam_lightning.benchmarks.time_network import time_network

    _run("network", out, lambda: time_network(options))


def data(options: benchmarks.ReadingOptions, *, out: Folder | None = None) -> None:
    """Measure the images/s of reading, decoding and cropping.

    Args:
        options: What to measure, and how.
        out: Write data.json and data.png to this folder.
    """
    from cbam_lightning.benchmarks.time_reading import time_reading

    _run("data", out, lambda: [time_reading(options)])


def gradcam(options: benchmarks.GradCAMOptions, *, out: Folder | None = None) -> None:
    """Measure the time of Grad-CAM, compared with the passes that it needs.

    Args:
        options: What to measure, and how.
        out: Write gradcam.json and gradcam.png to this folder.
    """
    from cbam_lightning.benchmarks.time_gradcam import time_gradcam

    _run("gradcam", out, lambda: [time_gradcam(options)])


def loop(options: benchmarks.LoopOptions, *, out: Folder | None = None) -> None:
    """Measure the images/s of `fit`, compared with a plain PyTorch loop.

    Args:
        options: What to measure, and how.
        out: Write loop.json and loop.png to this folder.
    """
    from cbam_lightning.benchmarks.time_loop import time_loop

    _run("loop", out, lambda: [time_loop(options)])


def _run(kind: str, out: str | None, measure: Callable[[], list[Report]]) -> None:
    """Measure and show the reports, unless ``out`` already has results of this kind."""
    from cbam_lightning.benchmarks.table import render, render_conditions

    if out is not None:
        folder = Path(out)
        earlier = (*folder.glob(f"{kind}*.json"), *folder.glob(f"{kind}*.png"))
        check_unwritten(*([folder] if folder.is_file() else earlier))
    reports = measure()
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
