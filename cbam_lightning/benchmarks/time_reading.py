"""The rate at which one worker process reads images: common pipeline, files, packed images, upper bound."""

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

from cbam_lightning.benchmarks.measurements import Measurement, Report, collect
from cbam_lightning.benchmarks.options import ReadingOptions
from cbam_lightning.benchmarks.timing import alternate
from cbam_lightning.data.batch import BadImage
from cbam_lightning.data.class_folders import EVAL_RESIZE_RATIO, IMAGENET_MEAN, IMAGENET_STD
from cbam_lightning.data.cropping import EvalTransform, TrainTransform
from cbam_lightning.data.image_files import find_files, read_image
from cbam_lightning.data.image_folder import ImageFolder
from cbam_lightning.data.packed.packing import pack
from cbam_lightning.data.packed.shards import DATA_FORMATS
from cbam_lightning.data.split_dataset import Preparation
from cbam_lightning.errors import UsageError

SIZE_PX = 224
RESIZE_PX = round(SIZE_PX * EVAL_RESIZE_RATIO)
CROP_SCALE = (0.08, 1.0)
FILE_SIZE_PX = (500, 375)  # the most frequent width and height in ImageNet
PIL, FILES, COPY = "PIL", "files", "copy"


def time_reading(options: ReadingOptions) -> list[Report]:
    """Measure the images/s that one process with one thread reads from files in the disk cache.

    ``PIL`` is the pipeline of https://github.com/pytorch/examples/blob/main/imagenet/main.py, which ends with
    normalised float32. The others end with uint8 batches, as the data modules pass them to the device, which
    does the rest: ``files`` from the same files, ``packed raw`` and ``packed jpeg`` from the output of
    ``data pack``. ``copy``, one copy of the finished batch, is a bound for every pipeline.

    Raises:
        UsageError: There are too few images, or LitData is not installed.
    """
    count = options.images
    if count < 2:
        raise UsageError(f"images is {count}; give 2 or more.")
    rows: list[Measurement] = []
    with tempfile.TemporaryDirectory() as name, _one_thread():
        folder = Path(name)
        paths = _choose(Path(options.root), count) if options.root else _photographs(folder, count)
        for i, path in enumerate(paths):
            # two classes, as packing needs
            target = folder / "files" / str(i % 2) / f"{i:06d}{Path(path).suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        for encoding in DATA_FORMATS:
            pack(ImageFolder(str(folder / "files")), folder / encoding, encoding=encoding, num_workers=1)
        for group in ("training", "evaluation"):
            measured = alternate(_pipelines(folder, group), options.repeats, description=group)
            rows += collect(group, measured, lambda seconds: count / seconds)
    files = options.root or "500 x 375 px, JPEG"
    setting = {"images": count, "files": files, "repeats": options.repeats, "size_px": SIZE_PX}
    title = "Reading images in one process"
    return [Report("data", title, "images/s", rows, PIL, lower_is_better=False, setting=setting)]


def _pipelines(folder: Path, group: str) -> dict[str, Callable[[], object]]:
    """Return the candidates: each reads all images as one batch, always with the same random numbers."""
    training = group == "training"
    transform = TrainTransform(SIZE_PX, CROP_SCALE, True) if training else EvalTransform(SIZE_PX, RESIZE_PX)
    roots = {FILES: "files"} | {f"packed {encoding}": encoding for encoding in DATA_FORMATS}
    sets = {}
    for name, root in roots.items():
        source = ImageFolder(str(folder / root)).source
        sets[name] = source.images("", source.classes("")).dataset(Preparation(transform, 3, SIZE_PX))
    indices = list(range(len(sets[FILES])))
    finished = sets[FILES].__getitems__(indices).images.contiguous()
    paths, pil = [sets[FILES].name(i) for i in indices], _pil_transform(training)
    return {
        PIL: partial(_seeded, lambda: torch.stack([pil(pil_loader(path)) for path in paths])),
        **{name: partial(_seeded, partial(data.__getitems__, indices)) for name, data in sets.items()},
        COPY: finished.clone,
    }


def _pil_transform(training: bool) -> transforms.Compose:
    if training:
        crop = [transforms.RandomResizedCrop(SIZE_PX, CROP_SCALE), transforms.RandomHorizontalFlip()]
    else:
        crop = [transforms.Resize(RESIZE_PX), transforms.CenterCrop(SIZE_PX)]
    return transforms.Compose(
        [*crop, transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    )


def _seeded(call: Callable[[], object]) -> object:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return call()


def _choose(root: Path, count: int) -> list[str]:
    """Return paths of readable images, spread over a folder."""
    found = find_files(root) if root.is_dir() else []
    step = max(1, len(found) // count)
    chosen = [path for path in found[::step] if not isinstance(read_image(path, 3), BadImage)][:count]
    if len(chosen) < count:
        raise UsageError(
            f"{root} has only {len(chosen)} readable images of the {count} requested; give fewer --images."
        )
    return chosen


def _photographs(folder: Path, count: int) -> Iterator[str]:
    """Write random crops of a photograph that comes with matplotlib as JPEG files, and yield their paths."""
    photograph = Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("RGB")
    generator = random.Random(0)
    for i in range(count):
        width = generator.randint(photograph.width // 2, photograph.width)
        height = width * FILE_SIZE_PX[1] // FILE_SIZE_PX[0]
        left = generator.randint(0, photograph.width - width)
        top = generator.randint(0, photograph.height - height)
        path = folder / f"{i}.jpg"
        crop = photograph.resize(FILE_SIZE_PX, box=(left, top, left + width, top + height))
        crop.save(path, quality=90)
        yield str(path)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
