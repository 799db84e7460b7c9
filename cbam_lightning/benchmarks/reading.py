"""What reading images costs one worker process: the usual pipeline, files, packed images, and the bound."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from matplotlib.cbook import get_sample_data
from PIL import Image
from torchvision import transforms
from torchvision.datasets.folder import pil_loader

from cbam_lightning.benchmarks import Report, Row, alternate
from cbam_lightning.data.batch import BadImage
from cbam_lightning.data.class_folders import EVAL_RESIZE_RATIO, IMAGENET_MEAN, IMAGENET_STD
from cbam_lightning.data.files import find_files, read_image
from cbam_lightning.data.image_folder import ImageFolder
from cbam_lightning.data.packed.packing import pack
from cbam_lightning.data.packed.shards import DATA_FORMATS
from cbam_lightning.data.transforms import EvalTransform, TrainTransform
from cbam_lightning.errors import UsageError

SIZE_PX = 224
RESIZE_PX = round(SIZE_PX * EVAL_RESIZE_RATIO)
CROP_SCALE = (0.08, 1.0)
FILE_SIZE_PX = (500, 375)  # the most frequent width and height in ImageNet
PIL, FILES, COPY = "PIL", "files", "copy"


def benchmark_data(root: str | None, images: int, repeats: int) -> Report:
    """Measure the images/s of one process with one thread, from files that the disk's cache holds.

    ``PIL`` is the pipeline of https://github.com/pytorch/examples/blob/main/imagenet/main.py, which ends with
    normalised float32. The others end with uint8 batches, as the data modules hand them to the device, which
    does the rest: ``files`` from the same files, ``packed raw`` and ``packed jpeg`` from what ``data pack``
    made of them, and ``copy`` is what no pipeline can beat, one copy of the finished batch.

    Args:
        root: Folder of image files; by default, JPEG files of 500 x 375 pixels are cut from a photograph.
        images: Number of files, at least 2.
        repeats: Measurements of each pipeline.

    Raises:
        UsageError: A number is too small, the folder has too few images, or LitData is not installed.
    """
    if images < 2 or repeats < 1:
        message = f"images is {images}, repeats is {repeats}; allowed: 2 or more images, 1 or more repeats."
        raise UsageError(message)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name, _one_thread():
        folder = Path(name)
        for i, path in enumerate(_choose(Path(root), images) if root else _photographs(folder, images)):
            # Two classes, as packing needs.
            target = folder / "files" / str(i % 2) / f"{i:06d}{Path(path).suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        for encoding in DATA_FORMATS:
            pack(ImageFolder(str(folder / "files")), folder / encoding, encoding=encoding, num_workers=1)
        for group in ("training", "evaluation"):
            measured = alternate(_pipelines(folder, group), repeats, description=group)
            rows += [
                Row(group, candidate, [images / s for s in seconds])
                for candidate, seconds in measured.items()
            ]
        setting: dict[str, str | int] = {
            "images": images,
            "files": root or "500 x 375 px, JPEG",
            "repeats": repeats,
            "size_px": SIZE_PX,
        }
        title = "Reading images in one process"
        return Report("data", title, "images/s", rows, baseline=PIL, lower_is_better=False, setting=setting)


def _pipelines(folder: Path, group: str) -> dict[str, Callable[[], object]]:
    """Make the candidates: each reads all images as one batch, with the same random numbers every time."""
    training = group == "training"
    transform = TrainTransform(SIZE_PX, CROP_SCALE, True) if training else EvalTransform(SIZE_PX, RESIZE_PX)
    roots = {FILES: "files"} | {f"packed {encoding}": encoding for encoding in DATA_FORMATS}
    sets = {}
    for name, root in roots.items():
        source = ImageFolder(str(folder / root)).source
        sets[name] = source.images("", source.classes("")).dataset(transform, 3, SIZE_PX)
    indices = list(range(len(sets[FILES])))
    finished = sets[FILES].__getitems__(indices).images.contiguous()
    paths, pil = [sets[FILES].name(i) for i in indices], _pil_transform(training)
    return {
        PIL: _seeded(lambda: torch.stack([pil(pil_loader(path)) for path in paths])),
        **{name: _seeded(partial(data.__getitems__, indices)) for name, data in sets.items()},
        COPY: finished.clone,
    }


def _pil_transform(training: bool) -> transforms.Compose:
    if training:
        cut = [transforms.RandomResizedCrop(SIZE_PX, CROP_SCALE), transforms.RandomHorizontalFlip()]
    else:
        cut = [transforms.Resize(RESIZE_PX), transforms.CenterCrop(SIZE_PX)]
    return transforms.Compose(
        [*cut, transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    )


def _seeded(call: Callable[[], object]) -> Callable[[], object]:
    def seeded() -> object:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return call()

    return seeded


def _choose(root: Path, count: int) -> list[str]:
    """Choose readable images of a folder, as far from each other as possible."""
    found = find_files(root) if root.is_dir() else []
    step = max(1, len(found) // count)
    chosen = [path for path in found[::step] if not isinstance(read_image(path, 3), BadImage)][:count]
    if len(chosen) < count:
        message = (
            f"{root} has {len(chosen)} readable images where {count} were looked for; give fewer --images."
        )
        raise UsageError(message)
    return chosen


def _photographs(folder: Path, count: int) -> Iterator[str]:
    """Cut JPEG files out of the photograph that matplotlib brings along, each somewhere else."""
    photograph = Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("RGB")
    generator = random.Random(0)
    for i in range(count):
        width = generator.randint(photograph.width // 2, photograph.width)
        height = width * FILE_SIZE_PX[1] // FILE_SIZE_PX[0]
        left = generator.randint(0, photograph.width - width)
        top = generator.randint(0, photograph.height - height)
        path = folder / f"{i}.jpg"
        cut = photograph.resize(FILE_SIZE_PX, box=(left, top, left + width, top + height))
        cut.save(path, quality=90)
        yield str(path)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
