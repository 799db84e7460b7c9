"""A callback that records the images that a process trains on."""

import json
from pathlib import Path

from pytorch_lightning import Callback


class SeeImages(Callback):
    """Append epoch, batch and images to a file of this process."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        with Path(f"seen-{trainer.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps([trainer.current_epoch, batch_idx, batch.indices.tolist()]) + "\n")
