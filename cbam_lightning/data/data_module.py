"""Base class of all data modules: options, splits, loaders, and the seed of the run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any, Literal, cast

from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader

from cbam_lightning.checks import require, require_at_least
from cbam_lightning.data.bad_images import BadImageLog
from cbam_lightning.data.loader import BatchLoader, BatchOrder, EvalOrder, TrainOrder, loading_options
from cbam_lightning.data.split_dataset import SplitDataset
from cbam_lightning.seeding import run_seed

LabelledSplit = Literal["train", "val", "test"]
Split = Literal["train", "val", "test", "predict"]
Loader = DataLoader[Any]


class BaseDataModule(LightningDataModule, ABC):
    """Base of the data modules of all tasks.

    Args:
        batch_size: Images per batch on each device.
        global_batch_size: Images per batch over all devices, a multiple of their number. It replaces
            ``batch_size`` and makes a run independent of the number of devices.
        num_workers: Processes that load images. Default: 0 for images in memory; for image files, and for
            user-defined transforms and data sets, the number of processor cores, at most 8.
        val_fraction: Fraction of the training images held out for validation. With 0, all of them are trained
            on and validation uses the test images; do not choose checkpoints by it then.
        split_seed: Seed of the choice of held-out images; it is independent of the seed of the run.
        predict_path: Image file, or folder of image files, to predict. Default: the test images.
        on_bad_image: What to do with a file that is not a readable image: "raise" stops, "skip" leaves it out
            and warns.

    Attributes:
        num_classes: Number of classes.
        class_names: Names of the classes, in the order of the labels.
        in_channels: Channels of an image, 1 or 3.
        mean: Mean of each channel, of values in [0, 1].
        std: Standard deviation of each channel, of values in [0, 1].
        dataset_name: Name of the data set.
        holds_out_by_name: Whether the names of the files decide which images are held out.
    """

    num_classes: int
    class_names: tuple[str, ...]
    in_channels: Literal[1, 3]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dataset_name: str
    holds_out_by_name: bool = False

    def __init__(
        self,
        *,
        batch_size: int = 128,
        global_batch_size: int | None = None,
        num_workers: int | None = None,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        predict_path: str | None = None,
        on_bad_image: Literal["raise", "skip"] = "raise",
    ) -> None:
        super().__init__()
        require_at_least(1, batch_size=batch_size)
        require_at_least(1, or_null=True, global_batch_size=global_batch_size)
        require_at_least(0, or_null=True, num_workers=num_workers)
        require(0 <= val_fraction < 1, "val_fraction", val_fraction, "0 or more, and less than 1")
        self.batch_size = batch_size
        self.global_batch_size = global_batch_size
        self.num_workers = num_workers
        self.val_fraction = val_fraction
        self.split_seed = split_seed
        self.predict_path = predict_path
        self._bad_images = BadImageLog(on_bad_image)
        self._seed: int | None = None

    @abstractmethod
    def build_split(self, split: LabelledSplit) -> SplitDataset:
        """Build the data set of a split; with a ``val_fraction`` of 0, "val" holds the test images.

        Raises:
            UsageError: The data are missing or damaged.
        """

    @abstractmethod
    def build_predict_set(self, path: str) -> SplitDataset:
        """Build the data set of an image file, or of the image files in a folder.

        Raises:
            UsageError: There are no files.
        """

    @cached_property
    def train_set(self) -> SplitDataset:
        """The training images without the held-out ones, randomly augmented."""
        return self.build_split("train")

    @cached_property
    def val_set(self) -> SplitDataset:
        """The validation images, not augmented."""
        return self.build_split("val")

    @cached_property
    def test_set(self) -> SplitDataset:
        """The test images, not augmented."""
        return self.build_split("test")

    @cached_property
    def predict_set(self) -> SplitDataset:
        """The images at ``predict_path``, or the test images; not augmented."""
        return self.test_set if self.predict_path is None else self.build_predict_set(self.predict_path)

    def setup(self, stage: str | None = None) -> None:
        """Load the splits of a stage; those already loaded are kept.

        Args:
            stage: "fit", "validate", "test", "predict", or ``None`` for all of them.
        """
        if stage == "fit":
            self._seed = None  # another run may have another one
        splits = {"train": "fit", "val": "fit validate", "test": "test", "predict": "predict"}
        for split, stages in splits.items():
            if stage is None or stage in stages.split():
                self.split_set(cast(Split, split))

    def split_set(self, split: Split) -> SplitDataset:
        """Return the data set of a split by its name."""
        return cast(SplitDataset, getattr(self, f"{split}_set"))

    def sample_name(self, split: Split, index: int) -> str:
        """Return the path of an image, or a name such as "cifar10/test/00012" for images in memory.

        Args:
            split: The split.
            index: Position in the data set of the split, as in ``Batch.indices``.
        """
        return self.split_set(split).name(index)

    def describe_splits(self) -> dict[str, dict[str, Any]]:
        """Return what tells the training and the validation images from others, which a checkpoint keeps.

        Returns:
            By split, the number of its ``images`` and a ``digest`` of which they are.
        """
        sets = {"train": self.train_set, "val": self.val_set}
        return {name: {"images": len(each), "digest": each.digest()} for name, each in sets.items()}

    def train_dataloader(self) -> Loader:
        """Return shuffled batches; an incomplete last batch is dropped, unless it is the only one."""
        return self._loader(self.train_set, self.train_order(self.train_set))

    def train_order(self, dataset: SplitDataset) -> TrainOrder:
        """Return the order in which these images are trained on."""
        return TrainOrder(dataset, self.device_batch_size, self.seed, *self._devices)

    def val_dataloader(self) -> Loader:
        """Return the batches of ``val_set``."""
        return self._eval_loader(self.val_set)

    def test_dataloader(self) -> Loader:
        """Return the batches of ``test_set``."""
        return self._eval_loader(self.test_set)

    def predict_dataloader(self) -> Loader:
        """Return the batches of ``predict_set``, which Lightning distributes over the devices."""
        return self._loader(self.predict_set, None)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Handle the unreadable files of a batch, in the main process, and return it without them.

        Raises:
            UsageError: A file is not an image, or its size is not that of its annotation, and
                ``on_bad_image`` is "raise".
            OSError: A file could not be read, regardless of ``on_bad_image``.
        """
        return self._bad_images.readable(batch)

    @property
    def device_batch_size(self) -> int:
        """Images per batch on one device.

        Raises:
            UsageError: ``global_batch_size`` is not a multiple of the number of devices.
        """
        if self.global_batch_size is None:
            return self.batch_size
        num_devices, _ = self._devices
        size, rest = divmod(self.global_batch_size, num_devices)
        allowed = f"a multiple of the {num_devices} devices"
        require(rest == 0, "global_batch_size", self.global_batch_size, allowed)
        return size

    @property
    def _devices(self) -> tuple[int, int]:
        """The number of devices, and the rank of this one."""
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

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

    def _eval_loader(self, dataset: SplitDataset) -> Loader:
        return self._loader(dataset, EvalOrder(dataset, self.device_batch_size, *self._devices))

    def _loader(self, dataset: SplitDataset, order: BatchOrder | None) -> Loader:
        """Return batches in an order, or in Lightning's own, as ``overfit_batches`` needs it."""
        num_workers = dataset.default_num_workers if self.num_workers is None else self.num_workers
        if order is not None and not getattr(self.trainer, "overfit_batches", 0):
            return BatchLoader(dataset, order, num_workers)
        return DataLoader(dataset, batch_size=self.device_batch_size, **loading_options(dataset, num_workers))

    @property
    def skipped_images(self) -> list[str]:
        """The unreadable files left out so far, each once, in the order in which they were found."""
        return self._bad_images.paths

    def teardown(self, stage: str) -> None:
        """Warn of the files left out, on every process, because each reads other files."""
        self._bad_images.report()
