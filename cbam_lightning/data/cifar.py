"""CIFAR-10 and CIFAR-100: 32 x 32 colour images (https://www.cs.toronto.edu/~kriz/cifar.html)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchvision import datasets

from cbam_lightning.data.array_module import ArrayDataModule
from cbam_lightning.data.dataset_download import download_folder
from cbam_lightning.errors import UsageError


class CIFAR10(ArrayDataModule):
    """CIFAR-10: 50,000 training and 10,000 test images.

    The official files are Python pickles. They are read only after torchvision has checked their MD5 sums.

    Args:
        root: Folder that holds cifar-10-batches-py, or to which it is downloaded.
        download: Whether to download the data set if it is missing.
        **kwargs: Options of ``ArrayDataModule``.
    """

    num_classes = 10
    # fmt: off
    class_names: tuple[str, ...] = (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    )
    # fmt: on
    in_channels = 3
    size_px = 32
    # Over all pixels of the 50,000 training images. The std of (0.2023, 0.1994, 0.2010) that is often seen
    # is something else: the mean of the per-image standard deviations.
    mean = (0.4914, 0.4822, 0.4465)
    std = (0.2470, 0.2435, 0.2616)
    dataset_name = "cifar10"
    reader: ClassVar[Any] = datasets.CIFAR10

    def __init__(self, root: str = "datasets", download: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root = root
        self.download = download

    @property
    def folder(self) -> Path:
        """The folder of the official files."""
        return Path(self.root, self.reader.base_folder)

    def prepare_data(self) -> None:
        """Download the data set if it is missing and ``download`` is true."""
        if self.download and self._read(train=False) is None:  # checks the files of both parts
            download_folder(
                self.folder,
                lambda folder: self.reader(folder, download=True),
                f"{self.dataset_name} from {self.reader.url}",
            )

    def load_part(self, train: bool) -> tuple[Tensor, Tensor]:
        """Read the official training or test images and their labels."""
        part = self._read(train)
        if part is None:
            raise UsageError(
                f"{self.folder} is missing, or its files do not have the official checksums. Give the folder "
                "that holds it with --data.root, or fetch it with --data.download true."
            )
        images = torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous()  # (M, 32, 32, 3) before
        return images, torch.tensor(part.targets, dtype=torch.int64)

    def _read(self, train: bool) -> Any:
        """Return torchvision's data set, or ``None`` if a file is missing or has a wrong checksum."""
        try:
            return self.reader(self.root, train=train)
        except RuntimeError:
            return None


class CIFAR100(CIFAR10):
    """CIFAR-100 with its 100 fine classes: 50,000 training and 10,000 test images.

    Args:
        root: Folder that holds cifar-100-python, or to which it is downloaded.
        download: Whether to download the data set if it is missing.
        **kwargs: Options of ``ArrayDataModule``.
    """

    num_classes = 100
    # fmt: off
    class_names = (
        "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle",
        "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle",
        "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup",
        "dinosaur", "dolphin", "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house",
        "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion", "lizard", "lobster", "man",
        "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange", "orchid",
        "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine",
        "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew",
        "skunk", "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar", "sunflower",
        "sweet_pepper", "table", "tank", "telephone", "television", "tiger", "tractor", "train", "trout",
        "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf", "woman", "worm",
    )
    # fmt: on
    mean = (0.5071, 0.4865, 0.4409)  # over all pixels of the 50,000 training images
    std = (0.2673, 0.2564, 0.2762)
    dataset_name = "cifar100"
    reader = datasets.CIFAR100
