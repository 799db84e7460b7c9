"""A run that goes on with other images than those that it was trained with: it is told, and refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_fabric.utilities.data import sized_len
from pytorch_lightning import Trainer
from pytorch_lightning.utilities import rank_zero_warn

from cbam_lightning.errors import UsageError

# By the name of the split, the number of its ``images`` and a ``digest`` of which they are.
Splits = dict[str, dict[str, Any]]
STATE_KEY = "data"


class DataChanges:
    """Compares the training and validation images of a resumed run with those in its checkpoint.

    A data module says by ``describe_splits`` which images these are, as ``BaseDataModule`` does. Of others,
    the lengths of the data sets are compared.

    Args:
        allowed: Whether the run may go on with other images.
    """

    def __init__(self, allowed: bool) -> None:
        self.allowed = allowed
        self._splits: Splits | None = None
        self._compared = False

    def read(self, trainer: Trainer) -> None:
        """Ask the data module, which is set up."""
        data: Any = getattr(trainer, "datamodule", None)
        self._splits = data.describe_splits() if hasattr(data, "describe_splits") else None

    @property
    def are_described(self) -> bool:
        """Whether the data module says which images it has."""
        return self._splits is not None

    def splits(self, trainer: Trainer) -> Splits:
        """Return what a checkpoint keeps."""
        return _lengths(trainer) if self._splits is None else self._splits

    def compare(self, trainer: Trainer, state: Mapping[str, Any]) -> None:
        """Compare the images with those of a checkpoint; a second time does nothing.

        Args:
            trainer: The trainer; its loaders are made, or the data module describes its splits.
            state: What the checkpoint says of the run. Those of older versions know nothing of the images.

        Raises:
            UsageError: There are other images, and the run may not go on with them.
        """
        if self._compared:
            return
        self._compared = True
        changes = ""
        if STATE_KEY in state:
            changes = _changes(state[STATE_KEY], self.splits(trainer))
        elif getattr(getattr(trainer, "datamodule", None), "holds_out_by_name", False):
            changes = "an older version held out others"
        if changes and not self.allowed:
            raise UsageError(
                f"the run was trained with other images ({changes}). It may have been trained on some that "
                "are held out now, and the results would be too good. Restore the data and the options of "
                "--data, start a new run, or go on all the same with --run.changed_data true."
            )
        if changes:
            rank_zero_warn(
                f"the run goes on with other images ({changes}). Where it was trained on some that are held "
                "out now, the results are too good."
            )


def _changes(before: Splits, now: Splits) -> str:
    """Describe how the splits that both know differ."""
    return "; ".join(
        f"{name}: {_numbers(before[name]['images'], now[name]['images'])}"
        for name in before
        if name in now and before[name] != now[name]
    )


def _numbers(before: int, now: int) -> str:
    return f"{before} before, {now} now" if before != now else f"{now} as before, but not the same"


def _lengths(trainer: Trainer) -> Splits:
    """Return the lengths of the data sets whose loaders are made."""
    loops: dict[str, Any] = {"train": trainer.fit_loop, "val": trainer.fit_loop.epoch_loop.val_loop}
    if getattr(trainer, "reload_dataloaders_every_n_epochs", 0):
        return {}  # they may have other lengths in every epoch
    lengths = {name: _lengths_of(loop._combined_loader) for name, loop in loops.items()}
    return {
        name: {"images": sum(each), "digest": str(each)} for name, each in lengths.items() if each is not None
    }


def _lengths_of(loaders: Any) -> list[int] | None:
    """Return the lengths of the data sets of some loaders; ``None`` if there is one without a length."""
    if loaders is None:
        return None
    lengths = [sized_len(getattr(loader, "dataset", None)) for loader in loaders.flattened]
    return None if None in lengths else [length for length in lengths if length is not None]
