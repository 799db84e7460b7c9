"""User-defined data: a Dataset with images of unequal size, and a plain LightningDataModule."""

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from cbam_lightning.data import FashionMNIST


class Garments(Dataset):
    """Grey arrays (H, W) of several heights, with some pixels dimmed at random in training."""

    classes = ("top", "trousers", "shoe", "bag")
    numbers = (0, 1, 7, 8)

    def __init__(self, train: bool = True, count: int = 96):
        images, labels = FashionMNIST().load_part(train)
        kept = torch.isin(labels, torch.tensor(self.numbers)).nonzero().flatten()[:count]
        self.images, self.labels = images[kept, 0].numpy(), [self.numbers.index(i) for i in labels[kept]]
        self.train = train

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        image = self.images[index][: 24 + index % 4]
        if self.train:
            image = (image * np.random.uniform(0.9, 1.0)).astype(np.uint8)  # noqa: NPY002
        return image, self.labels[index]


class PlainData(LightningDataModule):
    """A module as Lightning users write it, with float images."""

    def __init__(self, batch_size: int = 16):
        super().__init__()
        self.batch_size = batch_size

    def _loader(self, train, count, **options):
        images, labels = FashionMNIST().load_part(train)
        chosen = (labels < 3).nonzero().flatten()[:count]
        pairs = [(images[i] / 255 - 0.3, int(labels[i])) for i in chosen]
        return DataLoader(pairs, batch_size=self.batch_size, **options)

    def train_dataloader(self):
        return self._loader(True, 96, shuffle=True)

    def val_dataloader(self):
        return self._loader(False, 32)

    test_dataloader = predict_dataloader = val_dataloader
