"""``data``: data sets, prepared for training."""

from __future__ import annotations

import argparse
import re
import shlex
from typing import Any

from cbam_lightning.cli.commands import Parser
from cbam_lightning.errors import UsageError, unknown_name


def data(args: list[str]) -> None:
    """Prepare data sets."""
    parser = Parser(prog="cbam-lightning data", description="Data sets, prepared.")
    actions = parser.add_subparsers(dest="action", required=True, parser_class=Parser)
    _pack_arguments(actions)
    _scenes_arguments(actions)
    given = parser.parse_args(args)
    given.run(given)


def _pack_arguments(actions: Any) -> None:
    text = "Write class folders as shards, which are read faster, from a folder or an object store."
    packing = actions.add_parser("pack", help="write class folders as shards", description=text)
    packing.set_defaults(run=_pack)
    packing.add_argument("--data", required=True, help="ImageNet or ImageFolder")
    packing.add_argument("--root", required=True, help="folder of the image files, as for training")
    packing.add_argument("--out", required=True, help="new folder, or that of an interrupted packing")
    packing.add_argument(
        "--encoding",
        default="raw",
        help="raw: read fastest, about 260 KB an image; jpeg: about a tenth of that",
    )
    packing.add_argument("--shorter-side-px", type=int, default=256, help="what to shrink images to")
    packing.add_argument("--on-bad-image", default="raise", help="raise, or skip to leave it out")
    packing.add_argument("--num-workers", type=int, help="processes; left out: one a core")


def _scenes_arguments(actions: Any) -> None:
    text = "Write garments on photographs, drawn by seed, in the format of a detection set."
    scenes = actions.add_parser("scenes", help="write a small detection set", description=text)
    scenes.set_defaults(run=_scenes)
    scenes.add_argument("--layout", required=True, help="voc or coco")
    scenes.add_argument("--out", required=True, help="new folder")
    scenes.add_argument("--num-images", type=int, default=1000, help="training scenes")
    scenes.add_argument("--num-test-images", type=int, default=200, help="test scenes")
    scenes.add_argument("--size-px", type=int, default=112, help="height and width of a scene")
    scenes.add_argument("--in-channels", type=int, default=3, help="3 for colour, 1 for grey")
    scenes.add_argument("--photographs", help="folder of photographs; left out: two shipped ones")
    scenes.add_argument("--scene-seed", type=int, default=0, help="seed of the scenes")


def _pack(given: argparse.Namespace) -> None:
    from cbam_lightning.data import ImageFolder, ImageNet
    from cbam_lightning.data.packed.packing import pack

    modules = {"ImageFolder": ImageFolder, "ImageNet": ImageNet}
    if given.data not in modules:
        raise unknown_name(kind="data set to pack", given=given.data, allowed=modules)
    try:
        source = modules[given.data](root=given.root)
    except UsageError as error:
        text = str(error).replace("--data.root", "--root")
        raise UsageError(text) from None
    packed = pack(
        source,
        given.out,
        encoding=given.encoding,
        shorter_side_px=given.shorter_side_px,
        on_bad_image=given.on_bad_image,
        num_workers=given.num_workers,
    )
    print(f"{packed.describe()}\nWritten: {given.out}")
    print(f"Train from it: cbam-lightning fit --data {given.data} --data.root {shlex.quote(given.out)} …")


def _scenes(given: argparse.Namespace) -> None:
    from cbam_lightning.data.detection.scene_files import write_scenes

    try:
        write_scenes(
            given.out,
            given.layout,
            given.num_images,
            given.scene_seed,
            num_test_images=given.num_test_images,
            size_px=given.size_px,
            in_channels=given.in_channels,
            photographs=given.photographs,
        )
    except UsageError as error:
        text = re.sub(r"--data\.(\w+)", lambda option: "--" + option[1].replace("_", "-"), str(error))
        raise UsageError(text) from None
    print(f"Written: {given.out}")
