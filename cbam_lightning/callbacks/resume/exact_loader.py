"""Loaders of any kind, read so that a run can be resumed exactly in the middle of an epoch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lightning_fabric.utilities.data import _set_sampler_epoch, sized_len
from lightning_fabric.utilities.types import _Stateful
from pytorch_lightning import Trainer
from pytorch_lightning.trainer.connectors.data_connector import _DataLoaderSource
from pytorch_lightning.utilities import rank_zero_info
from pytorch_lightning.utilities.combined_loader import (
    _SUPPORTED_MODES,
    CombinedLoader,
    _shutdown_workers_and_reset_iterator,
)

from cbam_lightning.callbacks.resume.generators import OwnGenerators
from cbam_lightning.data.loader import BatchLoader
from cbam_lightning.data.worker_processes import starting_workers
from cbam_lightning.errors import UsageError
from cbam_lightning.optim.place import current_epoch
from cbam_lightning.seeding import Stream, derive_seed, seed_all

_LONG_S = 5.0


@dataclass
class Place:
    """The place in the run at which data are read.

    Args:
        trainer: The trainer.
        seed: Returns the run's seed.
        stream: Which data are read.
    """

    trainer: Trainer
    seed: Callable[[], int]
    stream: Stream
    generators: OwnGenerators = field(default_factory=OwnGenerators)

    @property
    def epoch(self) -> int:
        """The epoch."""
        return current_epoch(self.trainer)

    def _of_pass(self) -> tuple[int, int]:
        trains = self.stream is Stream.LOADING
        return self.seed(), self.epoch if trains else self.trainer.global_step

    def seed_batch(self, number: int) -> None:
        """Seed the reading of a batch; the first one includes the order, which is the same on all devices."""
        rank = self.trainer.global_rank if number else 0
        seed_all(derive_seed(self.stream, *self._of_pass(), number, rank))

    def seed_generators(self, loaders: list[Any]) -> None:
        """Seed the generators inside the loaders."""
        self.generators.seed(loaders, *self._of_pass())


class ExactLoader(CombinedLoader):
    """Lightning's combination of loaders, with random numbers that depend on the place in the run only.

    To resume in mid-epoch, it reads and skips the batches that were trained on; loaders with a length,
    ``state_dict`` and ``load_state_dict`` resume by themselves. Nothing is read before the first batch is
    requested. Worker processes of other loaders live for one pass, even if persistent: they cannot be seeded
    again.

    Args:
        loaders: The loaders of a data module.
        place: The place at which they are read.
    """

    def __init__(self, loaders: CombinedLoader, place: Place) -> None:
        super().__init__(loaders.iterables, loaders._mode)
        self._place = place
        self._state: dict[str, Any] = {}
        self._begun = False
        self._epoch, self._read = 0, 0

    @property
    def _resumes_itself(self) -> bool:
        # if a loader has no length, Lightning reads one batch ahead of its state
        return all(isinstance(x, _Stateful) and sized_len(x) is not None for x in self.flattened)

    def __iter__(self) -> ExactLoader:
        self._iterator = _SUPPORTED_MODES[self._mode]["iterator"](self.flattened, self._limits)
        self._begun = False
        return self

    def __next__(self) -> Any:
        if not self._begun:
            self._begin()
        self._place.seed_batch(self._read)
        batch = super().__next__()
        self._read += 1
        return batch

    def _begin(self) -> None:
        self._begun, self._epoch, self._read = True, self._place.epoch, 0
        state, self._state = self._state, {}
        if not self._resumes_itself:
            self._place.seed_generators(self.flattened)
            for loader in self.flattened:
                _set_sampler_epoch(loader, self._epoch)
                if getattr(loader, "persistent_workers", False):
                    _shutdown_workers_and_reset_iterator(loader)
        self._place.seed_batch(0)
        if state.get("epoch") == self._epoch and state.get("done"):
            self._iterator = iter(())  # type: ignore[assignment]
            return
        with starting_workers(self.flattened):
            iter(self._iterator)  # type: ignore[arg-type]
        if state.get("epoch") == self._epoch:
            self._skip(state["batches"])

    def _skip(self, batches: int) -> None:
        start, is_announced = time.monotonic(), False
        for number in range(batches):
            next(self)
            if not is_announced and time.monotonic() - start > _LONG_S:
                rank_zero_info(f"Reading {batches} batches again to resume after them: {number + 1} done.")
                is_announced = True

    @property
    def position(self) -> int | None:
        """The number of the next batch after a state was loaded; ``None`` if only the loaders know."""
        if not self._resumes_itself:
            return self._state.get("batches")
        return self.flattened[0].position if isinstance(self.flattened[0], BatchLoader) else None

    @property
    def _sizes(self) -> list[int | None]:
        """Images in a batch of each loader, over all devices; ``None`` for what has batches of its own."""
        devices = self._place.trainer.world_size
        sizes = [getattr(loader, "batch_size", None) for loader in self.flattened]
        return [None if size is None else size * devices for size in sizes]

    def _state_dicts(self) -> list[dict[str, Any]]:
        if self._resumes_itself:
            return super()._state_dicts()
        loop = self._place.trainer.fit_loop
        ahead = len(getattr(loop._data_fetcher, "batches", ()))
        done = loop.epoch_loop.batch_progress.is_last_batch
        read = {"epoch": self._epoch, "batches": self._read - ahead, "done": done}
        return [{**read, "sizes": self._sizes, "lengths": list(map(sized_len, self.flattened))}]

    def _load_state_dicts(self, states: list[dict[str, Any]]) -> None:
        if self._resumes_itself:
            super()._load_state_dicts(states)
        elif states:
            before, now = states[0].get("sizes", self._sizes), self._sizes
            self._state = {**states[0], "batches": self._in_present_batches(states[0], before, now)}

    def _in_present_batches(self, state: dict[str, Any], before: list[Any], now: list[Any]) -> int:
        """Return the number of batches that hold the images that were read.

        Raises:
            UsageError: There is none.
        """
        batches = int(state["batches"])
        known = None not in now or state.get("lengths") == list(map(sized_len, self.flattened))
        if (before == now and known) or state["done"]:
            return batches
        images = batches * before[0] if len(before) == len(now) == 1 and before[0] else 0
        if not now[0] or not images or images % now[0]:
            raise UsageError(
                f"the run was stopped in the middle of an epoch, after {batches} batches of {_text(before)} "
                f"images on all devices; with batches of {_text(now)} it cannot go on at the same image. "
                "Finish the epoch with the former batch size and devices, or give a batch size that divides."
            )
        return images // int(now[0])


def _text(sizes: list[int | None]) -> str:
    return ", ".join("unknown numbers of" if size is None else str(size) for size in sizes)


class _ExactSource(_DataLoaderSource):
    def __init__(self, source: _DataLoaderSource, place: Place) -> None:
        super().__init__(source.instance, source.name)
        self.place = place

    def dataloader(self) -> Any:
        loaders: Any = super().dataloader()
        mode: Any = "max_size_cycle" if self.place.stream is Stream.LOADING else "sequential"
        combined = loaders if isinstance(loaders, CombinedLoader) else CombinedLoader(loaders, mode)
        return ExactLoader(combined, self.place) if type(combined) is CombinedLoader else combined


def read_exactly(trainer: Trainer, seed: Callable[[], int]) -> None:
    """Read all data for training and its validations through ``ExactLoader``.

    Lightning keeps a ``CombinedLoader`` as it is, and puts into it the loaders that it has prepared for
    several devices. Call it in ``setup``, when the sources are known and nothing has been read.

    Args:
        trainer: The trainer, before training.
        seed: Returns the run's seed, once a checkpoint is loaded.
    """
    loop = trainer.fit_loop
    for owner, stream in ((loop, Stream.LOADING), (loop.epoch_loop.val_loop, Stream.VALIDATION_LOADING)):
        source = owner._data_source
        owner._data_source = _ExactSource(source, Place(trainer, seed, stream))
