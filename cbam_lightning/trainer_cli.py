"""``fit``, ``validate``, ``test`` and ``predict``: Lightning's own command with our defaults.

Importing the tasks and the data modules here is what lets YAML and the command line use bare class names.
"""

from __future__ import annotations

import importlib
import logging
import sys
import warnings
from argparse import SUPPRESS, ArgumentError
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import wandb
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import LightningDataModule, LightningModule
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.trainer import Trainer

import cbam_lightning.data
import cbam_lightning.tasks  # noqa: F401
from cbam_lightning import __version__
from cbam_lightning.cli_errors import explain
from cbam_lightning.errors import UsageError
from cbam_lightning.runs.checkpointing import AtomicCheckpointIO
from cbam_lightning.runs.directory import RunDirectory, RunOptions, experiment_name
from cbam_lightning.runs.pictures import RunPictures
from cbam_lightning.runs.predictions import PredictionWriter
from cbam_lightning.runs.record import RunRecord
from cbam_lightning.runs.report import fit_report
from cbam_lightning.runs.tracking import WandbOptions, build_loggers, finish_wandb
from cbam_lightning.weights import read_training_state

# What the model learns of its data. `dataset_name` and `dataset` are one thing, named from two sides.
_LINKS = {
    "num_classes": "num_classes",
    "in_channels": "in_channels",
    "class_names": "class_names",
    "size_px": "size_px",
    "mean": "mean",
    "std": "std",
    "dataset_name": "dataset",
}
_CLASSIFIER = "cbam_lightning.tasks.Classifier"
_DEFAULTS = {
    "model": {"class_path": _CLASSIFIER},
    "checkpoint.monitor": "val/top1",
    "checkpoint.mode": "max",
    "checkpoint.filename": "best",
    "checkpoint.save_last": True,
    "checkpoint.enable_version_counter": False,
}


class TrainerCLI(LightningCLI):
    """LightningCLI that files each run in a directory of its own and tracks it.

    Args:
        args: The command line without the program's name.
    """

    def __init__(self, args: Sequence[str]) -> None:
        self._args = list(args)
        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            args=self._args,
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Make a parser that raises instead of ending the process, and takes no abbreviations for options."""
        return super().init_parser(exit_on_error=False, allow_abbrev=False, **kwargs)

    def _prepare_subcommand_parser(
        self, klass: type, subcommand: str, **kwargs: Any
    ) -> LightningArgumentParser:
        """Read every checkpoint, remote ones too, without running code from it, unless told otherwise."""
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        parser.set_defaults({"weights_only": True})
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the command line.

        Raises:
            UsageError: An option, a name or a value is wrong.
        """
        try:
            self.config = parser.parse_args(args)
        except ArgumentError as error:
            configs = [b for a, b in pairwise(args) if a in ("-c", "--config")]
            raise UsageError(explain(str(error), self._options(), configs)) from None

    def _options(self) -> list[str]:
        parsers = self._subcommand_parsers.values()
        return [a.dest for p in parsers for a in p._actions if a.dest != SUPPRESS]

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add our option groups, and link what the model has to know of the data."""
        parser.add_argument(
            "--imports",
            type=list[str],
            default=[],
            help="modules of yours to import first, for example one that calls register_model",
        )
        parser.add_class_arguments(RunOptions, "run")
        parser.add_class_arguments(WandbOptions, "wandb")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults(_DEFAULTS)
        for source, target in _LINKS.items():
            parser.link_arguments(f"data.{source}", f"model.init_args.{target}", apply_on="instantiate")

    def _parse_ckpt_path(self) -> None:
        """Let a checkpoint fill in what the user left open; Lightning's own lets it win over the user.

        https://github.com/Lightning-AI/pytorch-lightning/pull/21455
        """
        command = self.config["subcommand"]
        path = self.config[command].get("ckpt_path")
        if not path or path in ("best", "last", "hpc") or "://" in path:
            return
        known = read_training_state(path).get("hyper_parameters", {})
        class_path = known.get("_class_path", _CLASSIFIER)
        values = {k: v for k, v in known.items() if not k.startswith("_") and k not in _LINKS.values()}
        self._parser(command).set_defaults({"model": {"class_path": class_path, "init_args": values}})
        self.parse_arguments(self.parser, self._args)
        # the checkpoint's values replace those of the file that its run started from
        self.config[command]["model"]["init_args"]["weights"] = None

    def before_instantiate_classes(self) -> None:
        """Import the user's modules, and name the experiment, in the saved configuration, too."""
        config = self.config[self.subcommand]
        _import_modules(config["imports"])
        if config["run"]["experiment"] is None:
            config["run"]["experiment"] = experiment_name([str(path) for path in config.get("config") or []])
        self.experiment: str = config["run"]["experiment"]

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer around the run's directory."""
        options: RunOptions = self._get(self.config_init, "run")
        self.run_options = RunOptions(**vars(options))
        self.run = RunDirectory.create(self.run_options.root, self.experiment)
        self.checkpoint: ModelCheckpoint = self._get(self.config_init, "checkpoint")
        if self.checkpoint.dirpath is None:
            self.checkpoint.dirpath = str(self.run.checkpoints.absolute())

        trainer = dict(self._get(self.config_init, "trainer"))
        if trainer.get("default_root_dir") is None:
            kwargs["default_root_dir"] = str(self.run.path)
        kwargs["plugins"] = [*_as_list(trainer.get("plugins")), AtomicCheckpointIO()]
        if trainer.get("logger") is None and not trainer.get("fast_dev_run"):
            wandb_options = WandbOptions(**vars(self._get(self.config_init, "wandb")))
            kwargs["logger"] = build_loggers(self.run, self.experiment, wandb_options, str(self.subcommand))
        logs = bool(kwargs.get("logger") or trainer.get("logger"))
        kwargs["callbacks"] = [*_as_list(trainer.get("callbacks")), *self._callbacks(logs)]
        return super().instantiate_trainer(**kwargs)

    def _callbacks(self, logs: bool) -> list[Any]:
        config = self.config[self.subcommand]
        record = RunRecord(self._parser(self.subcommand), config, self.run, self.experiment, __version__)
        callbacks = [record, RunPictures(self.run)]
        if self.subcommand == "predict":
            callbacks.append(PredictionWriter(self.run))
        if logs and self.subcommand == "fit":
            callbacks.append(LearningRateMonitor())
        return callbacks

    def after_instantiate_classes(self) -> None:
        """Write into the configuration which network it came to, so that it stands without other files."""
        resolved = self.config[self.subcommand]["model"]["init_args"]
        for name in ("network", "attention", "attention_options", "network_options"):
            if name in resolved and name in self.model.hparams:
                resolved[name] = self.model.hparams[name]

    def after_fit(self) -> None:
        """Test the best checkpoint and say where everything is."""
        trainer = self.trainer
        best = Path(self.checkpoint.best_model_path) if self.checkpoint.best_model_path else None
        if self.run_options.test_after_fit and not trainer.interrupted:
            trainer.test(self.model, datamodule=self.datamodule, ckpt_path=best, weights_only=True)
        if trainer.is_global_zero:
            print(fit_report(self.run, trainer, self.model, best))

    def after_validate(self) -> None:
        """Say where the results are."""
        self._say(self.run.results)

    def after_test(self) -> None:
        """Say where the results are."""
        self._say(self.run.results)

    def after_predict(self) -> None:
        """Say where the predictions are."""
        self._say(self.run.predictions)

    def _say(self, path: Path) -> None:
        if self.trainer.is_global_zero:
            print(f"Written: {path}")

    def _run_subcommand(self, subcommand: str) -> None:
        """Run it, and end the tracking whatever happens."""
        exit_code = 1
        try:
            super()._run_subcommand(subcommand)
            exit_code = 0
        finally:
            finish_wandb(exit_code)


def _import_modules(names: Sequence[str]) -> None:
    """Import modules from the current folder or from what is installed; only the user can name them.

    Raises:
        UsageError: There is no such module.
    """
    if names and "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` does; a console script's path starts with its own folder
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            message = f"--imports: {error}; give modules that lie in {Path.cwd()} or are installed."
            raise UsageError(message) from None


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def run_trainer(args: Sequence[str]) -> None:
    """Run ``fit``, ``validate``, ``test`` or ``predict``.

    Args:
        args: The command line without the program's name.

    Raises:
        UsageError: Something that the user gave is wrong.
        OSError: The machine failed: the disk is full, a download broke off, and the like.
    """
    _quieten()
    try:
        TrainerCLI(args)
    except MisconfigurationException as error:  # Lightning's own word for a mistake of the user
        raise UsageError(str(error)) from None
    except wandb.Error as error:
        message = f"W&B: {error}. Set WANDB_MODE=offline to record the run here and upload it later."
        raise ConnectionError(message) from None
    except ValueError as error:
        raise _user_error_behind(error) from None


def _user_error_behind(error: BaseException) -> BaseException:
    """Find the mistake that jsonargparse wraps in an error about types when a class cannot be made."""
    behind: BaseException | None = error
    while behind is not None and not isinstance(behind, UsageError):
        behind = behind.__cause__ or behind.__context__
    return behind or error


def _is_worth_telling(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    return "Tip:" not in text and "TPU" not in text


def _quieten() -> None:
    """Silence what tells the user nothing: advertisements, and warnings about our own deliberate choices."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(_is_worth_telling)
    for text in (
        ".*args parameter is intended to run from within Python.*",
        ".*Experiment logs directory.*exists and is not empty.*",  # config.yaml is there before metrics.csv
        ".*does not have many workers.*",  # images in memory are cut in the main process, a batch at a time
        ".*The dirpath has changed from.*",  # evaluating the checkpoint of another run is what one does
        ".*LeafSpec.*is deprecated.*",
    ):
        warnings.filterwarnings("ignore", text)
