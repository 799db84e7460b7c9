"""``cbam-lightning benchmark``: a parser for each kind of measurement, and what is done with its reports."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cbam_lightning.cli.commands import Parser
from cbam_lightning.errors import UsageError

if TYPE_CHECKING:
    from cbam_lightning.benchmarks import Report


def benchmark(args: list[str]) -> None:
    """Measure attention, a network's training step, reading images, Grad-CAM, or the training loop."""
    parser = Parser(
        prog="cbam-lightning benchmark",
        description="Measure what is compared in turns, in one run; medians, ranges and ratios.",
    )
    names = f"{{{','.join(_KINDS)}}}"
    kinds = parser.add_subparsers(dest="kind", required=True, parser_class=Parser, metavar=names)
    for kind, (text, add_arguments, _) in _KINDS.items():
        added = kinds.add_parser(kind, help=text, description=text)
        add_arguments(added)
        added.add_argument("--out", metavar="DIR", help=f"write {kind}*.json and {kind}*.png there")
    given = parser.parse_args(args)
    _check_out(given.out, given.kind)
    reports = _KINDS[given.kind][2](given)
    print("\n\n".join(report.table() for report in reports))
    print(f"\n{reports[0].conditions()}")
    for report in reports if given.out else []:
        print("Written: " + ", ".join(map(str, report.save(given.out))))


def _check_out(out: str | None, kind: str) -> None:
    """Refuse a folder before anything is measured whose results would be in the way afterwards."""
    if out is None:
        return
    there = [path for ending in ("json", "png") for path in sorted(Path(out).glob(f"{kind}*.{ending}"))]
    if Path(out).exists() and not Path(out).is_dir():
        there = [Path(out)]
    if there:
        message = f"--out {out}: {there[0]} already exists, and is not overwritten. Give another folder."
        raise UsageError(message)


def _attention_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", nargs="?", default="cbam", metavar="NAME", help="such as cbam (default) or se"
    )
    parser.add_argument(
        "--shapes", nargs="+", metavar="NxCxHxW", help="default: after ResNet-50's stages, N = 16"
    )
    _layout_argument(parser, "channels_first channels_last")
    _implementation_arguments(parser, repeats=11)


def _attention(given: argparse.Namespace) -> list[Report]:
    from cbam_lightning.benchmarks import set_threads
    from cbam_lightning.benchmarks.attention import SHAPES, benchmark_attention

    set_threads(given.threads)
    return benchmark_attention(
        given.name,
        given.shapes or SHAPES,
        given.memory_format,
        given.repeats,
        given.compiled,
        given.device,
    )


def _network_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", default="resnet50", metavar="NAME", help="default: resnet50")
    parser.add_argument("--attention", nargs="+", default=["cbam"], help="one or more; default: cbam")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--size-px", type=int, default=224, help="image side")
    parser.add_argument("--in-channels", type=int, default=3, help="of the images")
    _layout_argument(parser, "channels_first")
    _implementation_arguments(parser, repeats=7)


def _network(given: argparse.Namespace) -> list[Report]:
    from cbam_lightning.benchmarks import set_threads
    from cbam_lightning.benchmarks.network import benchmark_network

    set_threads(given.threads)
    return benchmark_network(
        given.name,
        given.attention,
        given.batch_size,
        given.size_px,
        given.in_channels,
        given.memory_format,
        given.repeats,
        given.compiled,
        given.device,
    )


def _layout_argument(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--memory-format",
        nargs="+",
        default=default.split(),
        metavar="FORMAT",
        help=f"channels_first, channels_last or both; default: {default}",
    )


def _implementation_arguments(parser: argparse.ArgumentParser, repeats: int) -> None:
    parser.add_argument("--repeats", type=int, default=repeats, help="measurements of each candidate")
    parser.add_argument(
        "--compiled",
        action=argparse.BooleanOptionalAction,
        help="measure what torch.compile makes, too; default: if there is a compiler",
    )
    parser.add_argument("--device", default="cpu", help="such as cpu or cuda")
    parser.add_argument("--threads", type=int, help="of torch; left out, as many as it likes")


def _data_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", metavar="DIR", help="of images; left out, JPEG files cut from a photograph")
    parser.add_argument("--images", type=int, default=64, help="number of files")
    parser.add_argument("--repeats", type=int, default=7, help="measurements of each pipeline")


def _data(given: argparse.Namespace) -> list[Report]:
    from cbam_lightning.benchmarks.reading import benchmark_data

    return [benchmark_data(given.root, given.images, given.repeats)]


def _loop_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--attention", default="cbam")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20, help="training steps in each measurement")
    parser.add_argument("--repeats", type=int, default=7, help="measurements of each loop")


def _loop(given: argparse.Namespace) -> list[Report]:
    from cbam_lightning.benchmarks.loop import benchmark_loop

    return [benchmark_loop(given.network, given.attention, given.batch_size, given.steps, given.repeats)]


def _gradcam_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", default="resnet50", metavar="NAME", help="default: resnet50")
    parser.add_argument("--attention", default="cbam", help="default: cbam")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--size-px", type=int, default=224, help="image side")
    parser.add_argument("--repeats", type=int, default=7, help="measurements of each candidate")
    parser.add_argument("--device", default="cpu", help="such as cpu or cuda")
    parser.add_argument("--threads", type=int, help="of torch; left out, as many as it likes")


def _gradcam(given: argparse.Namespace) -> list[Report]:
    from cbam_lightning.benchmarks import set_threads
    from cbam_lightning.benchmarks.gradcam import benchmark_gradcam

    set_threads(given.threads)
    return benchmark_gradcam(
        given.name, given.attention, given.batch_size, given.size_px, given.repeats, given.device
    )


_Kind = tuple[str, Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], "list[Report]"]]
_KINDS: dict[str, _Kind] = {
    "attention": (
        "time and memory of an attention module, beside a copy of its input",
        _attention_arguments,
        _attention,
    ),
    "network": (
        "time and memory of a training step, with and without attention",
        _network_arguments,
        _network,
    ),
    "data": ("images/s of reading, decoding and cropping", _data_arguments, _data),
    "gradcam": ("time of Grad-CAM, beside the passes that it needs", _gradcam_arguments, _gradcam),
    "loop": ("images/s of `fit` against a plain PyTorch loop", _loop_arguments, _loop),
}
