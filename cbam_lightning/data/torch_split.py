"""One split of a user's ``torch.utils.data.Dataset``, read a batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from cbam_lightning.data.batch import Batch, ImageDataset, SampleRequest, as_index
from cbam_lightning.data.cropping import Transform, stack
from cbam_lightning.data.torch_items import TorchItems
from cbam_lightning.data.transformed import MAX_DEFAULT_WORKERS, drawing, usable_cores
from cbam_lightning.errors import UsageError


class TorchSplit(ImageDataset):
    """Items of one split.

    Args:
        items: Of the data set.
        positions: int64 (M,), which of them.
        transform: From (C, H, W) of any size to (C, *size); ``None`` leaves the images as they are.
        size: Height and width of every image.
        size_from: What has this size, for messages.
        part: First half of the names, for example ``"flowers/train"``.
    """

    def __init__(
        self,
        items: TorchItems,
        positions: Tensor,
        transform: Transform | None,
        size: tuple[int, int],
        size_from: str,
        part: str,
    ) -> None:
        self.items = items
        self.positions = positions
        self.transform = transform
        self.size = size
        self.size_from = size_from
        self.part = part
        self.default_num_workers = min(MAX_DEFAULT_WORKERS, usable_cores())

    @cached_property
    def labels(self) -> Tensor:  # type: ignore[override]
        """int64 (M,)."""
        return self.items.labels[self.positions]

    def __len__(self) -> int:
        return len(self.positions)

    def __getitems__(self, indices: Sequence[int | SampleRequest]) -> Batch:
        """Read a batch; the user's code draws from the image's own seed."""
        images: list[Tensor] = []
        labels: list[int] = []
        kept: list[int] = []
        for item in indices:
            index = item.position if isinstance(item, SampleRequest) else item
            with drawing(item, own_code=True):
                image, label = self.items.read(int(self.positions[index]))
                image = image if self.transform is None else self.transform(image)
            self._require_size(index, image)
            images.append(image)
            labels.append(label)
            kept.append(index)
        empty = torch.empty((0, self.items.channels, *self.size), dtype=torch.uint8)
        return Batch(stack(images) if images else empty, as_index(labels), as_index(kept))

    def name(self, index: int) -> str:
        """Return the path of the image, or the part and its place in the data set."""
        place = int(self.positions[index])
        return self.items.name(place) or f"{self.part}/{place:05d}"

    def _require_size(self, index: int, image: Tensor) -> None:
        height, width = image.shape[1:]
        if (height, width) != self.size:
            message = (
                f"{self.items.title}: item {int(self.positions[index])} is {width} x {height} pixels, and "
                f"{self.size_from} {self.size[1]} x {self.size[0]}; give --data.size_px to cut them to one "
                "size."
            )
            raise UsageError(message)
