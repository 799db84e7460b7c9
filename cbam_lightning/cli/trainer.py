"""``fit``, ``validate``, ``test``, ``predict``, ``resume``: Lightning's own command with our defaults.

Importing the tasks and the data modules here is what lets YAML and the command line use bare class names.
"""

from __future__ import annotations

import operator
from argparse import SUPPRESS, ArgumentError
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningDataModule, LightningModule
from pytorch_lightning.callbacks import (
    BatchSizeFinder,
    LearningRateFinder,
    LearningRateMonitor,
    ModelCheckpoint,
)
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.trainer import Trainer

import cbam_lightning.data  # noqa: F401
from cbam_lightning import __version__
from cbam_lightning.callbacks.batch_norm_sync import BatchNormSync
from cbam_lightning.callbacks.resume.checkpointing import AtomicCheckpointIO, SaveOptions
from cbam_lightning.callbacks.resume.exact_resume import ExactResume, read_points
from cbam_lightning.callbacks.run_record import RunRecord
from cbam_lightning.callbacks.step_seeds import StepSeeds
from cbam_lightning.cli.class_defaults import leave_out_defaults
from cbam_lightning.cli.data_links import link, require_stated, untold
from cbam_lightning.cli.monitors import AUTO, TrainingStart, resolve_monitor
from cbam_lightning.cli.option_errors import broken_yaml, explain
from cbam_lightning.cli.task_parts import can_test, pictures, prediction_writer
from cbam_lightning.cli.trainer_parts import Parts, as_mistake, own_mistake, refuse_checkpoint_io
from cbam_lightning.cli.trainer_setup import refuse_functions
from cbam_lightning.errors import RunStopped, UsageError
from cbam_lightning.runs.directory import RunDirectory, RunOptions, experiment_name
from cbam_lightning.runs.half_made import NewFolders
from cbam_lightning.runs.report import fit_report
from cbam_lightning.runs.wandb_setup import WandbOptions, build_loggers, finish_wandb
from cbam_lightning.weights.compatibility import model_of_checkpoint

# What the model finds out by itself, from its weights for example.
_RESOLVED = (
    *("network", "attention", "attention_options", "network_options"),
    *("image_mean", "image_std", "trainable_stages", "freeze_batch_norm"),
)
# Where a model may start from.
_WEIGHTS = ("weights", "backbone_weights")
_FINDERS = (LearningRateFinder, BatchSizeFinder)
_CLASSIFIER = "cbam_lightning.tasks.Classifier"
_DEFAULTS = {
    "model": {"class_path": _CLASSIFIER},
    "checkpoint.monitor": AUTO,
    "checkpoint.mode": AUTO,
    "checkpoint.filename": "best",
    "checkpoint.enable_version_counter": False,
}


class TrainerCLI(LightningCLI):
    """LightningCLI that files each run in a directory of its own and tracks it.

    Args:
        args: The command line without the program's name.
        resumed: The run to go on with; left out, a new one is made.
    """

    def __init__(self, args: Sequence[str], resumed: RunDirectory | None = None) -> None:
        self._args = list(args)
        self._resumed = resumed
        self._start = TrainingStart()
        self._new_folders: NewFolders | None = None
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
        configs = [b for a, b in pairwise(args) if a in ("-c", "--config")]
        if problem := broken_yaml(configs):
            raise UsageError(problem)
        try:
            self.config = parser.parse_args(args)
        except ArgumentError as error:
            raise UsageError(explain(str(error), self._options(), configs)) from None
        leave_out_defaults(self.config[self.config["subcommand"]])
        refuse_functions(self.config[self.config["subcommand"]])

    def _options(self) -> list[str]:
        parsers = self._subcommand_parsers.values()
        return [a.dest for p in parsers for a in p._actions if a.dest != SUPPRESS]

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add our option groups, and link what the model has to know of the data."""
        parser.add_argument(
            "--imports",
            type=list[str] | str,
            default=[],
            help="modules of yours, imported before anything else; from the current folder, or installed",
        )
        parser.add_class_arguments(RunOptions, "run")
        parser.add_class_arguments(WandbOptions, "wandb")
        parser.add_class_arguments(SaveOptions, "save")
        # the last state is saved by ExactResume, in its own way
        parser.add_class_arguments(
            ModelCheckpoint, "checkpoint", fail_untyped=False, sub_configs=True, skip={"save_last"}
        )
        parser.callback_keys.append("checkpoint")
        parser.set_defaults(_DEFAULTS)
        link(parser, self._model_options)

    def _parse_ckpt_path(self) -> None:
        """Let a checkpoint fill in what the user left open; Lightning's own lets it win over the user.

        https://github.com/Lightning-AI/pytorch-lightning/pull/21455
        """
        command = self.config["subcommand"]
        path = self.config[command].get("ckpt_path")
        if not path or path in ("best", "last", "hpc") or "://" in path:
            return
        model = model_of_checkpoint(path, self._model_options(), _CLASSIFIER)
        self._parser(command).set_defaults({"model": model})
        self.parse_arguments(self.parser, self._args)
        # the checkpoint's values replace those of the files that its run started from
        init_args = self.config[command]["model"]["init_args"]
        _set(init_args, {name: None for name in _WEIGHTS if name in init_args})

    def _add_instantiators(self) -> None:
        """Let whatever cannot be made say which option names it."""
        super()._add_instantiators()
        self._parts = Parts(self.config[self.config["subcommand"]])
        self.parser.add_instantiator(operator.call, object)
        known = self.parser._instantiators or {}
        self.parser._instantiators = {key: self._parts.watched(make) for key, make in known.items()}

    def before_instantiate_classes(self) -> None:
        """Name the experiment, and what makes a checkpoint the best, in the saved configuration, too."""
        config = self.config[self.subcommand]
        if config["run"]["experiment"] is None:
            config["run"]["experiment"] = experiment_name([str(path) for path in config.get("config") or []])
        self.experiment: str = config["run"]["experiment"]
        self._chosen_mode = config["checkpoint"]["mode"]
        resolve_monitor(config)
        init_args = config["model"].get("init_args", {})
        self._weights = {name: init_args[name] for name in _WEIGHTS if self._resumed and name in init_args}
        if self._resumed and self._resumed.last.is_file():
            # the checkpoint has all values, and the files may be gone
            _set(init_args, dict.fromkeys(self._weights))

    def instantiate_classes(self) -> None:
        """Make everything, and say which part could not be made.

        Raises:
            UsageError: Of all the types that a value may have, jsonargparse tells of the last one.
        """
        try:
            super().instantiate_classes()
        except ValueError as error:
            if self._parts.failure is None or isinstance(error, UsageError):
                raise
            raise self._parts.failure  # noqa: B904 - which has its cause

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer around the run's directory."""
        require_stated(self.model, self.datamodule, self._args)
        options: RunOptions = self._get(self.config_init, "run")
        self.run_options = RunOptions(**vars(options))
        # saved as given: for another figure the other may be better
        self.config[self.subcommand]["checkpoint"]["mode"] = self._chosen_mode
        self.run = self._resumed or self._new_run()
        with self._mistakes(as_mistake):
            return self._build_trainer(**kwargs)

    def _build_trainer(self, **kwargs: Any) -> Trainer:
        if self.subcommand == "fit":
            self.run.occupy()
        points = read_points(self.run) if self._resumed else {}
        self.checkpoint: ModelCheckpoint = self._get(self.config_init, "checkpoint")
        if self.checkpoint.dirpath is None:
            self.checkpoint.dirpath = str(self.run.checkpoints.absolute())

        trainer = dict(self._get(self.config_init, "trainer"))
        refuse_checkpoint_io(_as_list(trainer.get("plugins")))
        if trainer.get("default_root_dir") is None:
            kwargs["default_root_dir"] = str(self.run.path)
        self._checkpoint_io = AtomicCheckpointIO()
        kwargs["plugins"] = [*_as_list(trainer.get("plugins")), self._checkpoint_io]
        if trainer.get("sync_batchnorm"):
            kwargs["plugins"].append(BatchNormSync())
        if trainer.get("logger") is None and not trainer.get("fast_dev_run"):
            wandb_options = WandbOptions(**vars(self._get(self.config_init, "wandb")))
            kwargs["logger"] = build_loggers(
                self.run, self.experiment, wandb_options, str(self.subcommand), points
            )
        logs = bool(kwargs.get("logger") or trainer.get("logger"))
        is_trial = bool(trainer.get("fast_dev_run"))
        given = _as_list(trainer.get("callbacks"))
        if self._resumed and self._resumed.last.is_file():
            # what they found is in the checkpoint and in the configuration
            given = [callback for callback in given if not isinstance(callback, _FINDERS)]
        kwargs["callbacks"] = [*self._first_callbacks(is_trial), *given, *self._last_callbacks(logs)]
        return super().instantiate_trainer(**kwargs)

    def _new_run(self) -> RunDirectory:
        """Make the run's directory, or go on with the training of the name that was given."""
        options, fits = self.run_options, self.subcommand == "fit"
        folder = Path(options.root) / self.experiment
        self._new_folders = NewFolders(folder / options.name if fits and options.name else folder)
        run = RunDirectory.create(options.root, self.experiment, options.name if fits else None)
        if fits and options.name and run.last.is_file():
            self._resumed = run
        return run

    def _first_callbacks(self, is_trial: bool) -> list[Any]:
        """Return what saves, so that what others log at a moment comes after it, and what seeds a step."""
        seeds = StepSeeds()
        if self.subcommand != "fit" or is_trial:
            return [seeds]
        save_options = SaveOptions(**vars(self._get(self.config_init, "save")))
        return [ExactResume(self.run, save_options, self._checkpoint_io, seeds), seeds]

    def _last_callbacks(self, logs: bool) -> list[Any]:
        config = self.config[self.subcommand]
        callbacks: list[Any] = []
        parser = self._parser(self.subcommand)
        unlinked = untold(self.datamodule)
        stated = {name: value for name, value in self._model_options().items() if name in unlinked}
        callbacks.append(RunRecord(parser, config, self.run, self.experiment, __version__, stated))
        callbacks += [*pictures(self.model, self.run), self._start]
        if self.subcommand == "predict":
            self.writer = prediction_writer(self.model, self.run)
            callbacks.append(self.writer)
        if logs and self.subcommand == "fit":
            callbacks.append(LearningRateMonitor())
        return callbacks

    def _model_options(self) -> Any:
        return self.config[self.config["subcommand"]]["model"].get("init_args") or {}

    def after_instantiate_classes(self) -> None:
        """Write into the configuration which network it came to, so that it stands without other files."""
        resolved = self._model_options()
        _set(resolved, self._weights)
        for name in _RESOLVED:
            if name in resolved and name in self.model.hparams:
                resolved[name] = self.model.hparams[name]

    def after_fit(self) -> None:
        """Test the best checkpoint and say where everything is."""
        trainer = self.trainer
        path = self.checkpoint.best_model_path
        best = Path(path) if path and self._checkpoint_io.is_current(path) else None
        tests = self.run_options.test_after_fit and can_test(self.model, self.datamodule)
        if tests and not trainer.interrupted:
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
        self._say(self.writer.path)

    def _say(self, path: Path) -> None:
        if self.trainer.is_global_zero:
            print(f"Written: {path}")

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Add the checkpoint to go on from."""
        arguments = super()._prepare_subcommand_kwargs(subcommand)
        if self._resumed and self._resumed.last.is_file():
            arguments["ckpt_path"] = str(self._resumed.last)
        return arguments

    def _run_subcommand(self, subcommand: str) -> None:
        """Run it, and end the tracking whatever happens."""
        with self._mistakes(partial(self._parts.mistake, trainer=self.trainer)):
            self._run_tracked(subcommand)

    def _run_tracked(self, subcommand: str) -> None:
        exit_code = 1
        try:
            super()._run_subcommand(subcommand)
            exit_code = 0
        except RunStopped as stop:
            exit_code = stop.exit_code
            raise
        finally:
            finish_wandb(exit_code)

    @contextmanager
    def _mistakes(self, find: Callable[[Exception], UsageError | None]) -> Iterator[None]:
        """Turn the user's errors into a ``UsageError``, and leave nothing of a run that never began."""
        try:
            yield
        except Exception as error:
            mistake = error if isinstance(error, UsageError) else find(error) or own_mistake(error)
            if mistake and self._new_folders and not self._start.has_trained:
                self._new_folders.take_back(self.run.path)
            if mistake is None or mistake is error:
                raise
            raise mistake from error


def _set(arguments: Any, values: Mapping[str, Any]) -> None:
    """Set values in a configuration, which may be jsonargparse's own kind of dictionary."""
    for name, value in values.items():
        arguments[name] = value


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]
