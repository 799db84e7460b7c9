"""Fashion-MNIST: 28 x 28 greyscale images of clothes in 10 classes (https://arxiv.org/abs/1708.07747)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torchvision import datasets

from cbam_lightning.data.array_module import ArrayDataModule
from cbam_lightning.data.dataset_download import download_folder
from cbam_lightning.data.idx import read_idx
from cbam_lightning.errors import UsageError

EMBEDDED_DIR = Path(__file__).parent / "embedded"
DEBIAN_DIR = Path("/usr/share/datasets/fashion-mnist")  # of the package dataset-fashion-mnist
FILE_STEMS = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
NUM_CLASSES = 10


class FashionMNIST(ArrayDataModule):
    """Fashion-MNIST, or the subset that is shipped with this package.

    Args:
        source: "embedded" for the shipped 10,000 training and 2,000 test images, "full" for all 60,000 and
            10,000.
        root: Folder of the full data set: the four idx files, compressed or not, directly in it or in its
            subfolder FashionMNIST/raw. If they are missing, those of Debian's package are used.
        download: Whether to download the full data set into ``root`` if it is in neither place.
        crop_padding_px: Zero pixels added on each side before the random crop in training; 0 disables it.
        **kwargs: Options of ``ArrayDataModule``.
    """

    num_classes = NUM_CLASSES
    class_names = tuple(datasets.FashionMNIST.classes)
    in_channels = 1
    size_px = 28
    mean: tuple[float, ...] = (0.2860,)  # over all pixels of the 60,000 training images
    std: tuple[float, ...] = (0.3530,)
    dataset_name = "fashion_mnist"

    def __init__(
        self,
        source: Literal["embedded", "full"] = "embedded",
        root: str = "datasets",
        download: bool = False,
        crop_padding_px: int = 2,
        **kwargs: Any,
    ) -> None:
        super().__init__(crop_padding_px=crop_padding_px, **kwargs)
        self.source = source
        self.root = root
        self.download = download

    def prepare_data(self) -> None:
        """Download the full data set if it is missing and ``download`` is true."""
        if self.source == "full" and self.download and not self._find_files():
            download_folder(
                Path(self.root) / "FashionMNIST",
                lambda folder: datasets.FashionMNIST(folder, download=True),
                f"Fashion-MNIST from {datasets.FashionMNIST.mirrors[0]}",
            )

    def load_part(self, train: bool) -> tuple[Tensor, Tensor]:
        """Read the official training or test images and their labels."""
        paths = self._find_files()
        if not paths:
            raise UsageError(
                f"the full Fashion-MNIST is neither in {self.root} nor in {DEBIAN_DIR}. Do one of: "
                "apt-get install dataset-fashion-mnist; --data.root FOLDER, where its four idx files are; "
                "--data.download true."
            )
        images_path, labels_path = paths[:2] if train else paths[2:]
        images = read_idx(images_path, num_axes=3)
        labels = read_idx(labels_path, num_axes=1)
        if images.shape != (len(labels), self.size_px, self.size_px) or labels.max(initial=0) >= NUM_CLASSES:
            raise UsageError(
                f"{images_path} of shape {images.shape} does not fit {labels_path} with {len(labels)} labels "
                f"up to {labels.max(initial=0)}; expected the same number of 28 x 28 images, and labels "
                f"up to {NUM_CLASSES - 1}. Replace both with new copies."
            )
        return torch.tensor(images)[:, None], torch.tensor(labels, dtype=torch.int64)

    @property
    def available(self) -> bool:
        """Whether the files are on this machine."""
        return bool(self._find_files())

    def _find_files(self) -> list[Path]:
        """Return the paths of ``FILE_STEMS`` in the first folder that has all of them, else nothing."""
        root = Path(self.root)
        full = (root, root / "FashionMNIST" / "raw", DEBIAN_DIR)
        for folder in (EMBEDDED_DIR,) if self.source == "embedded" else full:
            candidates = [[p for p in (folder / s, folder / f"{s}.gz") if p.is_file()] for s in FILE_STEMS]
            if all(candidates):
                return [paths[0] for paths in candidates]
        return []
