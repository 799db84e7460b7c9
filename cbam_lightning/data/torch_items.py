"""Items of a user-defined ``torch.utils.data.Dataset``, checked as they are read, and splits of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, Subset
from tqdm import tqdm

from cbam_lightning.data.batch import Batch
from cbam_lightning.data.cropping import Transform, stack
from cbam_lightning.data.image_conversion import NotAnImageError, allowed_images, as_image
from cbam_lightning.data.image_digests import digest_of_arrays
from cbam_lightning.data.sample_requests import Requests
from cbam_lightning.data.split_dataset import (
    ImageDataset,
    as_index,
    load_each,
    seeded,
    whole_number,
)
from cbam_lightning.errors import UsageError
from cbam_lightning.user_code.tracebacks import describe_error


class TorchItems:
    """A map-style data set of (image, label).

    Args:
        dataset: The data set; of a ``torch.utils.data.Subset``, names and labels come from the whole.
        option: Option of the command that names it, for error messages.
        channels: C of the images.
        any_float: As in ``as_image``.

    Attributes:
        num_classes: Labels are less than this; ``None`` while unknown.

    Raises:
        UsageError: It is not such a data set, or it is empty.
    """

    def __init__(self, dataset: Any, option: str, channels: Literal[1, 3], any_float: bool) -> None:
        self.dataset, self.whole = dataset, dataset
        self.channels: Literal[1, 3] = channels
        self.any_float = any_float
        self.num_classes: int | None = None
        self.title = f"{option} {_class_path(dataset)}"
        self._require_map_style()
        self.positions = np.arange(len(dataset))  # positions of the items in the whole
        while isinstance(self.whole, Subset):
            self.positions, self.whole = np.asarray(self.whole.indices)[self.positions], self.whole.dataset
        self.title = f"{option} {_class_path(self.whole)}"

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, index: int) -> tuple[Tensor, int]:
        """Read an item.

        Returns:
            (C, H, W), uint8 or float32; and its class.

        Raises:
            UsageError: The data set raises, or the item is not an image with a label.
        """
        try:
            item = self.dataset[index]
        except Exception as error:
            raise UsageError(f"{self.title}: item {index} raised {describe_error(error)}.") from error
        if not isinstance(item, tuple | list) or len(item) != 2:
            what = f"{len(item)} values" if isinstance(item, tuple | list) else f"a {type(item).__name__}"
            raise self._wrong(index, f"is {what}", "a pair (image, label)")
        image, label = item
        try:
            return as_image(image, self.channels, any_float=self.any_float), self._label(index, label)
        except NotAnImageError as error:
            raise self._wrong(index, f"has {error} as its image", allowed_images(self.channels)) from None

    @cached_property
    def known_labels(self) -> Tensor | None:
        """The labels that the data set lists in ``targets`` or ``labels``, if it does."""
        if getattr(self.whole, "target_transform", None) is not None:
            return None  # the items have other labels
        for name in ("targets", "labels"):
            try:
                listed = np.asarray(getattr(self.whole, name, None))
            except (ValueError, TypeError):
                continue
            if listed.dtype.kind in "iu" and listed.shape == (len(self.whole),):
                return torch.from_numpy(listed[self.positions].astype(np.int64))
        return None

    @cached_property
    def labels(self) -> Tensor:
        """int64 (M,); a data set that does not list its labels is read once to find them."""
        if self.known_labels is not None:
            return self.known_labels
        labels = []
        for index in tqdm(range(len(self)), f"labels of {self.title}", leave=False, disable=None):
            with seeded(index, runs_user_code=True):
                labels.append(self.read(index)[1])
        return as_index(labels)

    def set_num_classes(self, num_classes: int) -> None:
        """Set the number of classes, and check the range of the listed labels.

        Raises:
            UsageError: A label is out of range.
        """
        self.num_classes = num_classes
        if self.known_labels is not None:
            wrong = (self.known_labels < 0) | (self.known_labels >= num_classes)
            for index in wrong.nonzero().flatten().tolist():
                self._label(index, int(self.known_labels[index]))  # raises

    def name(self, index: int) -> str | None:
        """Return the path of an item, if the data set lists paths as those of torchvision do."""
        for name in ("samples", "imgs"):
            listed = getattr(self.whole, name, None)
            if isinstance(listed, Sequence) and len(listed) == len(self.whole):
                sample = listed[self.positions[index]]
                path = sample[0] if isinstance(sample, tuple | list) else sample
                return path if isinstance(path, str) else None
        return None

    def _label(self, index: int, value: Any) -> int:
        label = whole_number(value)
        if label < 0 or label >= (self.num_classes or np.inf):
            allowed = "0, 1, 2, …" if self.num_classes is None else f"0 to {self.num_classes - 1}"
            many = "" if self.num_classes is None else f", as num_classes is {self.num_classes}"
            raise self._wrong(index, f"has the label {value!r:.80}", f"an integer from {allowed}{many}")
        return label

    def _require_map_style(self) -> None:
        if isinstance(self.dataset, IterableDataset):
            problem = "has no item numbers (IterableDataset)"
        elif isinstance(self.dataset, type) or not hasattr(self.dataset, "__getitem__"):
            problem = "is not a data set"
        elif not hasattr(self.dataset, "__len__"):
            problem = "has no length (__len__)"
        elif not len(self.dataset):
            problem = "is empty"
        else:
            return
        raise UsageError(
            f"{self.title} {problem}; allowed: a map-style torch.utils.data.Dataset of (image, label), or "
            "your own LightningDataModule with --data."
        )

    def _wrong(self, index: int, problem: str, allowed: str) -> UsageError:
        return UsageError(" ".join(f"{self.title}: item {index} {problem}; allowed: {allowed}.".split()))


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

    def __getitems__(self, requests: Requests) -> Batch:
        """Read a batch; user-defined code draws from the image's own seed."""
        positions, samples, _ = load_each(requests, self._load, runs_user_code=True)
        images = [image for image, _ in samples]
        labels = [label for _, label in samples]
        return Batch(
            stack(images, (self.items.channels, *self.size)),
            as_index(labels),
            as_index(positions),
        )

    def name(self, index: int) -> str:
        """Return the path of the image, or the part and the item's position in the data set."""
        position = int(self.positions[index])
        return self.items.name(position) or f"{self.part}/{position:05d}"

    def digest(self) -> str:
        """Return a digest of the names, and of the labels where the data set lists them."""
        known = self.items.known_labels
        return super().digest() + ("" if known is None else digest_of_arrays("", known[self.positions]))

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


def _class_path(value: object) -> str:
    kind = value if isinstance(value, type) else type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
