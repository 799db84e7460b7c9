"""``cbam-lightning data``: write data sets in other formats, and check them."""

from __future__ import annotations

import shlex
from inspect import signature
from typing import Literal

from cbam_lightning.checks import check_choice
from cbam_lightning.cli.command_line import Folder, Group
from cbam_lightning.cli.own_options import in_own_options


def pack(
    *,
    data: str,
    root: Folder,
    out: Folder,
    encoding: Literal["raw", "jpeg"] = "raw",
    shorter_side_px: int = 256,
    on_bad_image: Literal["raise", "skip"] = "raise",
    num_workers: int | None = None,
) -> None:
    """Pack class folders into shards, which are faster to read from a disk or an object store.

    Args:
        data: ImageNet or ImageFolder.
        root: Folder of the image files, as for training.
        out: A new folder, or the folder of an interrupted packing, which continues. What changed in the
            meantime is packed again.
        encoding: Raw is fastest to read, at about 260 KB per image; jpeg takes about a tenth of that.
        shorter_side_px: Shrink images to this shorter side.
        on_bad_image: Whether an unreadable image stops the command or is skipped.
        num_workers: Number of processes. Default: one per core.
    """
    from cbam_lightning.data import ImageFolder, ImageNet
    from cbam_lightning.data.packed.packing import pack as write_shards

    modules = {"ImageFolder": ImageFolder, "ImageNet": ImageNet}
    check_choice("data set to pack", data, modules)
    with in_own_options(signature(pack).parameters):
        source = modules[data](root=root)
    packed = write_shards(
        source,
        out,
        encoding=encoding,
        shorter_side_px=shorter_side_px,
        on_bad_image=on_bad_image,
        num_workers=num_workers,
    )
    print(f"{packed.describe()}\nWritten: {out}")
    print(f"Train from it: cbam-lightning fit --data {data} --data.root {shlex.quote(out)} …")


def check(*, root: Folder) -> None:
    """Check all of a packed set: hashes, counts, and files that are missing or do not belong to it.

    Prints one line if all is as it was packed. Else it prints a line for each fault, and the exit code is 1.

    Args:
        root: Output of `data pack`: a folder, or a URL, of which the copies in the cache are checked after
            fetching those that are missing.
    """
    from cbam_lightning.data.packed.checking import PackedCheck

    with in_own_options(signature(check).parameters):
        packed = PackedCheck(root)
    faults = []
    for fault in packed.faults():
        print(fault, flush=True)
        faults.append(fault)
    if faults:
        raise OSError(f"{root} has {len(faults)} {'fault' if len(faults) == 1 else 'faults'}, listed above.")
    print(packed.describe())


def scenes(
    *,
    layout: Literal["voc", "coco"],
    out: Folder,
    num_images: int = 1000,
    num_test_images: int = 200,
    size_px: int = 112,
    in_channels: int = 3,
    photographs: Folder | None = None,
    scene_seed: int = 0,
) -> None:
    """Write a small detection set: scenes with clothes from Fashion-MNIST, drawn from a seed.

    Args:
        layout: Format of the data set.
        out: A new folder.
        num_images: Number of training scenes.
        num_test_images: Number of test scenes.
        size_px: Height and width of a scene.
        in_channels: 3 for colour, 1 for grey.
        photographs: Photographs for the background. Default: two that come with this package.
        scene_seed: Seed of the scenes.
    """
    from cbam_lightning.data.detection.scene_files import write_scenes

    with in_own_options(signature(scenes).parameters):
        write_scenes(
            out,
            layout,
            num_images,
            scene_seed,
            num_test_images=num_test_images,
            size_px=size_px,
            in_channels=in_channels,
            photographs=photographs,
        )
    print(f"Written: {out}")


DATA = Group(
    "Write data sets in other formats, and check them.", {"pack": pack, "check": check, "scenes": scenes}
)
