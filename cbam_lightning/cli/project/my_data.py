"""Your own data set: any torch Dataset of (image, label)."""

import torch
from torch import Tensor
from torch.utils.data import Dataset

from cbam_lightning.data import FashionMNIST


class Shoes(Dataset[tuple[Tensor, int]]):
    """The sandals, sneakers and ankle boots of the Fashion-MNIST images that come with cbam_lightning.

    Images may be PIL images, arrays or tensors; here they are tensors, uint8 (1, 28, 28).

    Args:
        train: Whether to use the training images or the test images.
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
