"""The callback that writes a run's configuration, the origin of its checkpoints, and its results."""

from __future__ import annotations

import itertools
import json
import operator
import re
import warnings
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import BatchSizeFinder
from pytorch_lightning.cli import LightningArgumentParser, SaveConfigCallback
from pytorch_lightning.loggers import WandbLogger

from cbam_lightning import __version__
from cbam_lightning.errors import UsageError
from cbam_lightning.files import atomic_write
from cbam_lightning.runs.directory import RunDirectory
from cbam_lightning.runs.run_files import NETWORK_KEY
from cbam_lightning.runs.settings import dump_yaml
from cbam_lightning.runs.wandb_journal import WandbJournal
from cbam_lightning.weights.checkpoint import PROVENANCE_KEY
from cbam_lightning.weights.compatibility import BUILD_OPTIONS

MAIN_FIGURES = ("test/top1", "test/map")  # of a classifier, of a detector
_NETWORK = (*BUILD_OPTIONS, "size_px", "channels_last")

# What jsonargparse writes for a value that may be a name or a function, and for a device.
_UNWRITTEN = re.compile(r"'?unable to serialize instance (.+?)'?$", re.MULTILINE | re.IGNORECASE)


class RunRecord(SaveConfigCallback):
    """Write the resolved configuration, the origin of every checkpoint, and the results.

    Args:
        parser: Writes the configuration.
        config: The resolved configuration.
        run: Where to write.
        stated: Options of the model that are linked to the data, which the parser therefore leaves out, but
            that these data do not have.
        read: Parses the content of a configuration file, as the command does.
    """

    def __init__(
        self,
        parser: LightningArgumentParser,
        config: Any,
        run: RunDirectory,
        stated: Mapping[str, Any],
        read: Callable[[Any], Any],
    ) -> None:
        super().__init__(parser, config, save_to_log_dir=False)
        self.read = read
        self.stated = stated
        self.run = run

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write ``config.yaml``, and send the configuration and the parameter counts to W&B.

        A run that is resumed with other options keeps its file until they are accepted.

        Raises:
            UsageError: It could not be read again.
        """
        text = self._dumped(self.config)
        self._require_same(text)
        if self.stated:
            content = yaml.safe_load(text)
            content["model"].setdefault("init_args", {}).update(self.stated)
            text = dump_yaml(content)
        self._text = text
        if not self.run.config.is_file() or self.run.config.read_text() == text:
            self._write(trainer, pl_module)

    def _write(self, trainer: Trainer, pl_module: LightningModule) -> None:
        with atomic_write(self.run.config) as file:
            file.write(self._text.encode())
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                known = {"parameters": count_parameters(pl_module), NETWORK_KEY: _described(pl_module)}
                logger.log_hyperparams({**yaml.safe_load(self._text), **known})
                send = logger.send if isinstance(logger, WandbJournal) else operator.call
                send(partial(self._log_file, logger))

    def _log_file(self, logger: WandbLogger) -> None:
        name = f"config-{self.run.id}"
        logger.experiment.log_artifact(str(self.run.config), name=name, type="config")

    def _dumped(self, config: Any) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what _UNWRITTEN replaces
            return _UNWRITTEN.sub(r"\1", self.parser.dump(config, skip_unset=False))

    def _require_same(self, text: str) -> None:
        """Refuse a configuration that would not be the same once it is read again.

        Raises:
            UsageError: Names the option.
        """
        try:
            again = yaml.safe_load(self._dumped(self.read(yaml.safe_load(text))))
            different = next(_differences(yaml.safe_load(text), again, ""), None)
        except (ArgumentError, TypeError, ValueError) as error:
            named = re.findall(r'Parser key "([^"]+)"', str(error))
            different = ".".join(dict.fromkeys(named)) or str(error)
        if different is not None:
            raise UsageError(
                f"--{different} has a value that config.yaml cannot keep, and the run could not be resumed; "
                "give a number, a text, or the name of a class, or leave it out."
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget a former end, and write what was resumed with: its checkpoint is loaded, nothing refused.

        The batch size that was searched for is written, too: a resumed run does not search again.
        """
        if trainer.is_global_zero:
            self.run.forget_end()
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        batch_size = getattr(getattr(trainer, "datamodule", None), "batch_size", None)
        if batch_size is not None and any(isinstance(callback, BatchSizeFinder) for callback in callbacks):
            self.config["data"]["init_args"]["batch_size"] = batch_size
            if trainer.is_global_zero:
                self.save_config(trainer, pl_module, "fit")
        if trainer.is_global_zero and self.run.config.read_text() != self._text:
            names = (self.run.config.with_suffix(f".{number}.yaml") for number in itertools.count(1))
            self.run.config.rename(next(path for path in names if not path.exists()))
            self._write(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: Any) -> None:
        """Add experiment, seed, version and the present metrics to a checkpoint."""
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val")}
        checkpoint.setdefault(PROVENANCE_KEY, {}).update(
            experiment=self.config["run"]["experiment"],
            seed=self.config.get("seed_everything"),
            version=__version__,
            metrics=metrics,
        )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the results of a validation outside training."""
        if trainer.state.fn == "validate":
            self._write_results(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the results of a test."""
        self._write_results(trainer, pl_module)

    def _write_results(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        # Lightning has removed those of training
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        results = {
            "stage": "validate" if trainer.validating else "test",
            "checkpoint": trainer.ckpt_path and self._shortened(Path(trainer.ckpt_path)),
            "metrics": metrics,
            NETWORK_KEY: _described(module),
        }
        with atomic_write(self.run.results) as file:
            file.write(json.dumps(results, indent=2).encode())

    def _shortened(self, checkpoint: Path) -> str:
        """Return a checkpoint's path relative to the run's directory, which may be moved or published."""
        checkpoint, folder = checkpoint.absolute(), self.run.path.absolute()
        return str(checkpoint.relative_to(folder) if checkpoint.is_relative_to(folder) else checkpoint)


def _differences(written: Any, again: Any, option: str) -> Iterator[str]:
    """Return the options that differ, by dotted name."""
    if isinstance(written, Mapping) and isinstance(again, Mapping):
        for name, value in written.items():
            inner = option if name == "init_args" else f"{option}.{name}".strip(".")
            yield from _differences(value, again.get(name), inner)
    elif isinstance(written, list) and isinstance(again, list) and len(written) == len(again):
        for value, other in zip(written, again, strict=True):
            yield from _differences(value, other, option)
    elif repr(written) != repr(again):  # NaN is not equal to itself, its text is
        yield option


def _described(module: LightningModule) -> dict[str, Any]:
    """Return the options that build a network; none if they are not plain, in a user-defined module."""
    options = {name: module.hparams[name] for name in _NETWORK if name in module.hparams}
    try:
        json.dumps(options)
    except TypeError:
        return {}
    return options


def count_parameters(module: LightningModule) -> dict[str, int]:
    """Return the numbers of all and of the trainable parameters."""
    trainable = sum(p.numel() for p in module.parameters() if p.requires_grad)
    return {"total": sum(p.numel() for p in module.parameters()), "trainable": trainable}
