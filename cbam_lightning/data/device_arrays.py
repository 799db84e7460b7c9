"""Small images that are held by a device, which crops and flips whole batches of them."""

from __future__ import annotations

import torch
from torch import Tensor

from cbam_lightning.data.arrays import ArrayDataset
from cbam_lightning.data.batch import Batch
from cbam_lightning.data.random_shifts import mirrored, padded, windows
from cbam_lightning.data.sample_requests import Requests
from cbam_lightning.data.split_dataset import ImageDataset
from cbam_lightning.errors import UsageError


class DeviceArrays(ImageDataset):
    """The same batches as those of an ``ArrayDataset``, made on a device without waiting for it.

    The random numbers are drawn on the CPU, by the same code. They, the positions and the labels travel in
    one copy for a batch, and the images not at all. The images of the data set are held with their padding.

    Args:
        source: The images.
        device: The device.

    Raises:
        UsageError: The device has too little memory for the images.
    """

    default_num_workers = 0

    def __init__(self, source: ArrayDataset, device: torch.device) -> None:
        self.source = source
        self.labels = source.labels
        self.device = device
        images = padded(source.images[source.positions], source.pad_px)
        try:
            self._windows = windows(images.to(device), source.pad_px)
        except torch.OutOfMemoryError as error:
            raise UsageError(
                f"{device} has too little memory left for {len(images)} images of {source.part}, which take "
                f"{images.nbytes / 1e6:.1f} MB there; leave out --data.on_device."
            ) from error

    def __getitems__(self, requests: Requests) -> Batch:
        """Copy the images from among all, cropped and flipped."""
        index, labels, top, left, flip = sent(self.source.draw(requests), self.device)
        images = self._windows[index, :, top, left]
        return Batch(mirrored(images, flip) if self.source.hflip else images, labels, index)

    def name(self, index: int) -> str:
        """Return the name of the image in memory."""
        return self.source.name(index)

    def digest(self) -> str:
        """Return the digest of the images in memory."""
        return self.source.digest()


def sent(values: Tensor, device: torch.device) -> Tensor:
    """Send a small tensor of the CPU to a device and do not wait for it, which takes pinned memory."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
