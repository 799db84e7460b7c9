"""A data set of your own: any torch Dataset of (image, label)."""

import torch
from torch import Tensor
from torch.utils.data import Dataset

from cbam_lightning.data import FashionMNIST


class Shoes(Dataset[tuple[Tensor, int]]):
    """The sandals, sneakers and boots among the garments that are shipped with cbam_lightning.

    An image may be a PIL image, an array or a tensor; here it is uint8 (1, 28, 28).

    Args:
        train: Whether to take the training images or the test images.
    """

    classes = ("Sandal", "Sneaker", "Ankle boot")

    def __init__(self, train: bool = True) -> None:
        images, labels = FashionMNIST().load_part(train)
        numbers = torch.tensor([FashionMNIST.class_names.index(name) for name in self.classes])
        shoes = torch.isin(labels, numbers)
        self.images = images[shoes]
        self.targets = torch.searchsorted(numbers, labels[shoes]).tolist()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], self.targets[index]
