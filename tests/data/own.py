"""User-defined data sets, transforms and samplers, as in a user's module."""

import random

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, Sampler

from tests.data.generate import patches


class Photos(Dataset):
    """Crops of photographs, by default (20, 24, 3); image i is of class i % 3."""

    def __init__(self, count: int = 30, width: int = 24, height: int = 20):
        self.images = patches(count, height, width)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], index % 3


class Noisy(Photos):
    """One pixel comes from each of the three global generators."""

    def __init__(self, count: int = 30):
        super().__init__(count, 20, 20)

    def __getitem__(self, index):
        image = self.images[index].copy()
        image[0, 0] = random.randrange(256)
        image[0, 1] = np.random.randint(256)  # noqa: NPY002
        image[0, 2] = int(torch.randint(256, ()))
        return image, index % 3


class Items(Dataset):
    """Given items; counts the reads."""

    def __init__(self, items, **attributes):
        self.items, self.reads = items, 0
        vars(self).update(attributes)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        self.reads += 1
        item = self.items[index]
        if isinstance(item, Exception):
            raise item
        return item


class Faulty(Photos):
    """Has no label, a wrong label, or raises, starting at a position; ``width`` changes there."""

    def __init__(self, fault: str, position: int = 5):
        super().__init__(30, 20, 20)
        self.fault, self.position = fault, position

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        if index < self.position:
            return image, label
        if self.fault == "raises":
            raise KeyError(self.fault)
        return {
            "no label": image,
            "name": (image, "rose"),
            "label": (image, 7),
            "size": (image[:16], label),
            "channels": (image[..., :2], label),
        }[self.fault]


class Stream(IterableDataset):
    """Items without numbers."""

    def __iter__(self):
        return iter(Photos())


class Solarise:
    """Invert bright pixels."""

    def __init__(self, threshold: int = 128):
        self.threshold = threshold

    def __call__(self, image):
        return torch.where(image < self.threshold, image, 255 - image)


class Speckle:
    """Overwrite three pixels, from each of the three global generators."""

    def __call__(self, image):
        image = image.clone()
        image[:, 0, 0] = random.randrange(256)
        image[:, 0, 1] = int(np.random.randint(256))  # noqa: NPY002
        image[:, 0, 2] = int(torch.randint(256, ()))
        return image


class Returns:
    """Returns a given value."""

    def __init__(self, value):
        self.value = value

    def __call__(self, image):
        return self.value(image) if callable(self.value) else self.value


class Text:
    """Not an image."""

    def __call__(self, image):
        return "an image"


class Some(Sampler):
    """A given number of random images, drawn with Python's generator."""

    def __init__(self, images, count: int = 20):
        self.images, self.count = images, count
        self.epoch = None

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        return iter([random.randrange(len(self.images)) for _ in range(self.count)])


class Wild(Sampler):
    """Positions that do not exist."""

    def __init__(self, images, given: str = "10 ** 9"):
        self.given = eval(given)

    def __iter__(self):
        return iter([self.given])
