"""Random numbers of a training step that depend on nothing but the run's seed and the step."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from cbam_lightning.seeding import Stream, derive_seed, run_seed, seed_all

# Checkpoints of version 0.1 keep the seed in the state of the callback that saves.
_FORMER_KEY = "Survival"


class StepSeeds(Callback):
    """Seed the global generators before every training step, epoch and validation.

    Dropout and the like then draw the same numbers whenever a step is trained: in a run that is resumed, and
    under a plain ``Trainer`` as under the command. Tasks of this package bring this callback along.

    Attributes:
        seed: The seed of the run; that of the checkpoint if a run is resumed.
    """

    def __init__(self) -> None:
        self.seed = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Read the seed of the run."""
        self.seed = run_seed()

    def _seed_all(self, trainer: Trainer, stream: Stream, *place: int) -> None:
        seed_all(derive_seed(stream, self.seed, *place, trainer.global_rank))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed the hooks at the beginning of an epoch."""
        self._seed_all(trainer, Stream.EPOCH, trainer.current_epoch)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed a training step."""
        self._seed_all(trainer, Stream.STEP, trainer.current_epoch, batch_idx)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed a validation within training."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._seed_all(trainer, Stream.VALIDATION, trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """Return the seed."""
        return {"seed": self.seed}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: Any) -> None:
        """Continue with the seed of the run that is resumed."""
        states = checkpoint.get("callbacks", {})
        self.seed = {**states.get(_FORMER_KEY, {}), **states.get(self.state_key, {})}.get("seed", self.seed)
