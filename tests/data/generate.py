"""Small data sets in the real formats, made of real images, for the tests of the whole project."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import pickle
import tarfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision import datasets

from cbam_lightning.data import CIFAR10, CIFAR100
from cbam_lightning.data.fashion_mnist import EMBEDDED_DIR
from cbam_lightning.data.idx import read_idx
from experiments.shipping.fashion_mnist_subset import write_idx

WNIDS = ("n01440764", "n01443537", "n01484850")


@cache
def photographs() -> tuple[NDArray[np.uint8], ...]:
    """scikit-learn's two photographs, uint8 (427, 640, 3): a temple in China, and a flower."""
    return tuple(load_sample_images().images)


def patches(count: int, height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Crop windows from the photographs: uint8 (count, height, width, 3)."""
    generator = np.random.default_rng(seed)
    cuts = []
    for i in range(count):
        photograph = photographs()[i % 2]
        top = generator.integers(photograph.shape[0] - height)
        left = generator.integers(photograph.shape[1] - width)
        cuts.append(photograph[top : top + height, left : left + width])
    return np.stack(cuts)


def write_cifar10(root: Path, images_per_class: int = 5) -> Path:
    """Write cifar-10-batches-py below ``root``; each of the six batches holds that many images per class."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for seed, name in enumerate([f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]):
        labels = list(range(10)) * images_per_class
        _pickle(folder / name, _cifar_rows(len(labels), seed) | {"labels": labels})
    _pickle(folder / "batches.meta", {"label_names": list(CIFAR10.class_names), "num_vis": 3072})
    return folder


def write_cifar100(root: Path, images_per_class: int = 3) -> Path:
    """Write cifar-100-python below ``root``, with that many training and one test image of each class."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for name, count in {"train": images_per_class, "test": 1}.items():
        labels = list(range(100)) * count
        coarse = [label // 5 for label in labels]
        rows = _cifar_rows(len(labels), count)
        _pickle(folder / name, rows | {"fine_labels": labels, "coarse_labels": coarse})
    _pickle(folder / "meta", {"fine_label_names": list(CIFAR100.class_names)})
    return folder


def write_cifar_archive(folder: Path, archive: Path) -> None:
    """Pack a CIFAR folder as it is offered for download."""
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, arcname=folder.name)


@contextlib.contextmanager
def accept_checksums(root: Path, *archives: Path) -> Iterator[None]:
    """Let torchvision accept the CIFAR files below ``root``, and the archives, as the official ones."""
    readers = (datasets.CIFAR10, datasets.CIFAR100)
    names = ("train_list", "test_list", "meta", "tgz_md5")
    official = [(reader, name, vars(reader)[name]) for reader in readers for name in names]
    for reader in readers:
        folder = root / reader.base_folder
        if not folder.is_dir():
            continue
        reader.train_list = [[name, _md5(folder / name)] for name, _ in reader.train_list]
        reader.test_list = [[name, _md5(folder / name)] for name, _ in reader.test_list]
        reader.meta = reader.meta | {"md5": _md5(folder / reader.meta["filename"])}
        reader.tgz_md5 = next((_md5(a) for a in archives if a.name == reader.filename), reader.tgz_md5)
    try:
        yield
    finally:
        for reader, name, value in official:
            setattr(reader, name, value)


def write_image_folder(
    root: Path,
    classes: Sequence[str] = ("cat", "dog", "fox"),
    images_per_class: int = 10,
    suffix: str = ".jpg",
) -> Path:
    """Write ``root/<class>/<number><suffix>``, images of 40 x 52 pixels."""
    for seed, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i, pixels in enumerate(patches(images_per_class, 40, 52, seed)):
            save_image(pixels, root / name / f"{i:03d}{suffix}")
    return root


def write_imagenet(root: Path, classes: Sequence[str] = WNIDS, images_per_class: int = 6) -> Path:
    """Write ``train/<wnid>/*.JPEG`` and half as many images in ``val/<wnid>/*.JPEG``."""
    write_image_folder(root / "train", classes, images_per_class, ".JPEG")
    write_image_folder(root / "val", classes, max(1, images_per_class // 2), ".JPEG")
    return root


def write_fashion_mnist(root: Path, images_per_class: int = 10, *, compressed: bool = True) -> Path:
    """Write the four idx files into ``root``, with the first real images of each class."""
    root.mkdir(parents=True, exist_ok=True)
    for part in ("train", "t10k"):
        names = (f"{part}-images-idx3-ubyte.gz", f"{part}-labels-idx1-ubyte.gz")
        labels = read_idx(EMBEDDED_DIR / names[1], num_axes=1)
        chosen = np.sort(np.concatenate([np.flatnonzero(labels == c)[:images_per_class] for c in range(10)]))
        for name, array in zip(names, (read_idx(EMBEDDED_DIR / names[0], num_axes=3), labels), strict=True):
            write_idx(root / name, array[chosen])
            if not compressed:
                (root / name).with_suffix("").write_bytes(gzip.decompress((root / name).read_bytes()))
                (root / name).unlink()
    return root


def save_image(pixels: NDArray[np.uint8], path: Path) -> None:
    """Write uint8 pixels (H, W, 3) or (H, W) in the format of the file's name."""
    Image.fromarray(pixels).save(path, quality=90)


def _cifar_rows(count: int, seed: int) -> dict[str, Any]:
    rows = patches(count, 32, 32, seed).transpose(0, 3, 1, 2).reshape(count, 3072)
    return {"data": rows, "batch_label": "generated", "filenames": [f"{i}.png" for i in range(count)]}


def _pickle(path: Path, content: dict[str, Any]) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
