"""What all data modules share: options, loaders, and the way of a batch to the device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from cbam_lightning.data.bad_images import BadImageLog
from cbam_lightning.data.batch import Batch, FileBatch, ImageDataset
from cbam_lightning.data.files import FileDataset, find_predict_files
from cbam_lightning.data.loader import BatchLoader, collated_already
from cbam_lightning.data.mixing import create_mixing
from cbam_lightning.data.options import require
from cbam_lightning.data.order import EvalOrder, TrainOrder
from cbam_lightning.data.transforms import EvalTransform
from cbam_lightning.seeding import Stream, derive_seed, run_seed, seed_all

Split = Literal["train", "val", "test", "predict"]
Loader = DataLoader[Batch | FileBatch]


class ImageDataModule(LightningDataModule, ABC):
    """Base of the data modules.

    Args:
        batch_size: Images in a batch, on each device.
        global_batch_size: Images in a batch over all devices, a multiple of their number; replaces
            ``batch_size``, so that a run is the same on however many devices.
        num_workers: Processes that load images; by default none for images held in memory, and for image
            files as many as there are processor cores, at most 8.
        val_fraction: Part of the training images of each class held out for validation. With 0 all of them
            are trained on and validation shows the test images: then choose no checkpoint by it.
        split_seed: Seed of the choice of held-out images; the seed of the run does not influence it.
        mixup_alpha: Parameter of mixup's Beta distribution (https://arxiv.org/abs/1710.09412); 0 turns it
            off.
        cutmix_alpha: The same for cutmix (https://arxiv.org/abs/1905.04899); with both on, each batch gets
            one of them at random.
        predict_path: Image file, or folder of image files, to predict; by default the test images.
        on_bad_image: What to do about a file that is not a readable image: stop, or leave it out and say so.

    Attributes:
        num_classes: Number of classes.
        class_names: Their names, in the order of the labels.
        in_channels: Channels of an image, 1 or 3.
        size_px: Height and width of the network's input.
        mean: Mean of each channel, of values in [0, 1].
        std: Standard deviation of each channel, of values in [0, 1].
        dataset_name: Name of the data set.
        eval_resize_px: Length to which evaluation resizes the shorter side before it cuts the centre.
    """

    num_classes: int
    class_names: tuple[str, ...]
    in_channels: Literal[1, 3]
    size_px: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dataset_name: str
    eval_resize_px: int

    def __init__(
        self,
        *,
        batch_size: int = 128,
        global_batch_size: int | None = None,
        num_workers: int | None = None,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        mixup_alpha: float = 0.0,
        cutmix_alpha: float = 0.0,
        predict_path: str | None = None,
        on_bad_image: Literal["raise", "skip"] = "raise",
    ) -> None:
        super().__init__()
        require(batch_size >= 1, "batch_size", batch_size, "1 or more")
        require(
            global_batch_size is None or global_batch_size >= 1,
            "global_batch_size",
            global_batch_size,
            "1 or more, or null",
        )
        require(num_workers is None or num_workers >= 0, "num_workers", num_workers, "0 or more, or null")
        require(0 <= val_fraction < 1, "val_fraction", val_fraction, "0 or more, and less than 1")
        require(mixup_alpha >= 0, "mixup_alpha", mixup_alpha, "0 or more")
        require(cutmix_alpha >= 0, "cutmix_alpha", cutmix_alpha, "0 or more")
        self.batch_size = batch_size
        self.global_batch_size = global_batch_size
        self.num_workers = num_workers
        self.val_fraction = val_fraction
        self.split_seed = split_seed
        self.mixup_alpha = mixup_alpha
        self.cutmix_alpha = cutmix_alpha
        self.predict_path = predict_path
        self._bad_images = BadImageLog(on_bad_image)
        self._seed: int | None = None

    @abstractmethod
    def build_split(self, split: Literal["train", "val", "test"]) -> ImageDataset:
        """Make the data set of a split; with a ``val_fraction`` of 0 that of "val" holds the test images.

        Raises:
            UsageError: The data are missing or damaged.
        """

    @cached_property
    def train_set(self) -> ImageDataset:
        """The training images without those held out, augmented at random."""
        return self.build_split("train")

    @cached_property
    def val_set(self) -> ImageDataset:
        """The validation images, not augmented."""
        return self.build_split("val")

    @cached_property
    def test_set(self) -> ImageDataset:
        """The test images, not augmented."""
        return self.build_split("test")

    @cached_property
    def predict_set(self) -> ImageDataset:
        """The images at ``predict_path``, or the test images; not augmented."""
        if self.predict_path is None:
            return self.test_set
        paths = find_predict_files(Path(self.predict_path))
        labels = torch.full((len(paths),), -1)
        transform = EvalTransform(self.size_px, self.eval_resize_px)
        return FileDataset(paths, labels, transform, self.in_channels, self.size_px)

    def setup(self, stage: str | None = None) -> None:
        """Load what a stage needs; what is loaded already stays.

        Args:
            stage: "fit", "validate", "test", "predict", or ``None`` for all of them.
        """
        needed: dict[str | None, tuple[Split, ...]] = {
            "fit": ("train", "val"),
            "validate": ("val",),
            "test": ("test",),
            "predict": ("predict",),
            None: ("train", "val", "test", "predict"),
        }
        for split in needed[stage]:
            self.split_set(split)

    def split_set(self, split: Split) -> ImageDataset:
        """Return the data set of a split by its name."""
        return cast(ImageDataset, getattr(self, f"{split}_set"))

    def sample_name(self, split: Split, index: int) -> str:
        """Return the path of an image, or for images in memory a name such as "cifar10/test/00012".

        Args:
            split: The split.
            index: Position in the data set of the split, as in ``Batch.indices``.
        """
        return self.split_set(split).name(index)

    def train_dataloader(self) -> Loader:
        """Return shuffled batches; the last is left out if incomplete, unless it is the only one."""
        dataset = self.train_set
        order = TrainOrder(dataset, self.device_batch_size, self.seed, *self._devices)
        if self._overfits:
            return self._plain_loader(dataset)
        return BatchLoader(dataset, order, self._num_workers(dataset))

    def val_dataloader(self) -> Loader:
        """Return the batches of ``val_set``."""
        return self._eval_loader(self.val_set)

    def test_dataloader(self) -> Loader:
        """Return the batches of ``test_set``."""
        return self._eval_loader(self.test_set)

    def predict_dataloader(self) -> Loader:
        """Return the batches of ``predict_set``, which Lightning deals out to the devices."""
        return self._plain_loader(self.predict_set)

    @property
    def device_batch_size(self) -> int:
        """Images in a batch of one device.

        Raises:
            UsageError: ``global_batch_size`` is no multiple of the number of devices.
        """
        if self.global_batch_size is None:
            return self.batch_size
        num_devices, _ = self._devices
        allowed = f"a multiple of the {num_devices} devices"
        require(
            self.global_batch_size % num_devices == 0, "global_batch_size", self.global_batch_size, allowed
        )
        return self.global_batch_size // num_devices

    @property
    def _devices(self) -> tuple[int, int]:
        """The number of devices, and which of them this is."""
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    @property
    def _overfits(self) -> bool:
        """Whether Lightning wants to put its own order into the loaders."""
        return bool(getattr(self.trainer, "overfit_batches", 0))

    @property
    def seed(self) -> int:
        """The seed of the run, the same on all devices; that of the run that is resumed, if one is."""
        if self._seed is None:
            self._seed = run_seed() if self.trainer is None else self.trainer.strategy.broadcast(run_seed())
        return self._seed

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run has to know: the seed."""
        return {"seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Draw the same random numbers as the run that is resumed."""
        self._seed = state_dict["seed"]

    def _num_workers(self, dataset: ImageDataset) -> int:
        return dataset.default_num_workers if self.num_workers is None else self.num_workers

    def _eval_loader(self, dataset: ImageDataset) -> Loader:
        if self._overfits:
            return self._plain_loader(dataset)
        order = EvalOrder(dataset, self.device_batch_size, *self._devices)
        return BatchLoader(dataset, order, self._num_workers(dataset))

    def _plain_loader(self, dataset: ImageDataset) -> Loader:
        num_workers = self._num_workers(dataset)
        return DataLoader(
            dataset,
            batch_size=self.device_batch_size,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            collate_fn=collated_already,
        )

    def on_before_batch_transfer(self, batch: Batch | FileBatch, dataloader_idx: int) -> Batch:
        """Take the unreadable files out of a batch and deal with them here, in the main process.

        Raises:
            UsageError: A file is not an image and ``on_bad_image`` is "raise".
            OSError: A file could not be read, whatever ``on_bad_image`` is.
        """
        if isinstance(batch, Batch):
            return batch
        for bad in batch.bad:
            self._bad_images.add(bad)
        return Batch(batch.images, batch.labels, batch.indices)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Normalise a batch on its device and, in training, mix its images.

        Returns:
            ``(images / 255 - mean) / std`` in float32 or, with a reduced-precision trainer, in its type; see
            ``Batch`` for the labels.
        """
        # Decoders write the values of a pixel side by side; networks expect them a channel at a time.
        images = F.to_dtype(batch.images.contiguous(), torch.float32, scale=True)
        images = F.normalize(images, self.mean, self.std)
        batch = batch._replace(images=images)
        if self.trainer is None:
            return batch
        if self.trainer.training and self._mix is not None and len(images):
            done = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
            place = (self.seed, self.trainer.current_epoch, done, self.trainer.global_rank)
            seed_all(derive_seed(Stream.MIXING, *place))
            images, labels = self._mix(batch.images, batch.labels)
            batch = Batch(images, labels, batch.indices)
        # Lightning converts to the type of, say, "bf16-true" before this hook, while the images are uint8.
        return cast(Batch, self.trainer.precision_plugin.convert_input(batch))

    @cached_property
    def _mix(self) -> v2.Transform | None:
        return create_mixing(self.mixup_alpha, self.cutmix_alpha, self.num_classes)

    @property
    def skipped_images(self) -> list[str]:
        """The files left out so far as not readable, each once, in the order they were met."""
        return self._bad_images.paths

    def teardown(self, stage: str) -> None:
        """Warn of the files left out, on every process: each reads files of its own."""
        self._bad_images.report()
