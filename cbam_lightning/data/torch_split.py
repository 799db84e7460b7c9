"""One split of a user-defined ``torch.utils.data.Dataset``, read a batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from cbam_lightning.data.batch import Batch
from cbam_lightning.data.cropping import Transform, stack
from cbam_lightning.data.split_dataset import ImageDataset, SampleRequest, as_index, load_each
from cbam_lightning.data.torch_items import TorchItems
from cbam_lightning.errors import UsageError


@dataclass(eq=False)
class TorchSplit(ImageDataset):
    """Items of one split.

    Args:
        items: Items of the data set.
        positions: int64 (M,), which of the items belong to the split.
        transform: From (C, H, W) of any size to (C, *size); ``None`` leaves the images unchanged.
        size: Height and width of every image.
        size_from: What has this size, for error messages.
        part: First part of the names, for example ``"flowers/train"``.
    """

    items: TorchItems
    positions: Tensor
    transform: Transform | None
    size: tuple[int, int]
    size_from: str
    part: str

    @cached_property
    def labels(self) -> Tensor:  # type: ignore[override]
        """int64 (M,)."""
        return self.items.labels[self.positions]

    def __len__(self) -> int:
        return len(self.positions)

    def __getitems__(self, requests: Sequence[int | SampleRequest]) -> Batch:
        """Read a batch; user-defined code draws from the image's own seed."""
        positions, samples, _ = load_each(requests, self._load, runs_user_code=True)
        images = [image for image, _ in samples]
        labels = [label for _, label in samples]
        return Batch(stack(images, (self.items.channels, *self.size)), as_index(labels), as_index(positions))

    def name(self, index: int) -> str:
        """Return the path of the image, or the part and the item's position in the data set."""
        position = int(self.positions[index])
        return self.items.name(position) or f"{self.part}/{position:05d}"

    def _load(self, index: int) -> tuple[Tensor, int]:
        position = int(self.positions[index])
        image, label = self.items.read(position)
        image = image if self.transform is None else self.transform(image)
        height, width = image.shape[1:]
        if (height, width) != self.size:
            raise UsageError(
                f"{self.items.title}: item {position} is {width} x {height} pixels, and {self.size_from} "
                f"{self.size[1]} x {self.size[0]}; give --data.size_px to crop them to one size."
            )
        return image, label
