"""``fit``, ``validate``, ``test``, ``predict`` and ``resume``: Lightning's CLI with tracked runs."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import BatchSizeFinder, LearningRateFinder, LearningRateMonitor
from pytorch_lightning.utilities import rank_zero_info
from pytorch_lightning.utilities.model_helpers import is_overridden

from cbam_lightning.callbacks.batch_norm_sync import BatchNormSync
from cbam_lightning.callbacks.raw_predictions import RawPredictions
from cbam_lightning.callbacks.resume.divergence import EXIT_DIVERGED
from cbam_lightning.callbacks.resume.exact_resume import ExactResume, read_points
from cbam_lightning.callbacks.run_record import RunRecord
from cbam_lightning.callbacks.step_seeds import StepSeeds
from cbam_lightning.callbacks.throughput import Throughput
from cbam_lightning.cli.closed_pipes import outlive_readers
from cbam_lightning.cli.config_classes import read_config
from cbam_lightning.cli.data_links import refuse_other_values, require_from_data, unlinked
from cbam_lightning.cli.evaluated_checkpoint import require_weights
from cbam_lightning.cli.monitors import TrainingStart
from cbam_lightning.cli.processes import settle_rank
from cbam_lightning.cli.quiet import silence
from cbam_lightning.cli.resuming import refuse_other_start
from cbam_lightning.cli.trainer_errors import EXPLAINED, Parts, as_mistake, own_mistake, refuse_checkpoint_io
from cbam_lightning.cli.trainer_options import TrainerOptions
from cbam_lightning.cli.worker_errors import worker_failure
from cbam_lightning.errors import RunStopped, UsageError
from cbam_lightning.runs.closing_report import fit_report
from cbam_lightning.runs.directory import RunDirectory
from cbam_lightning.runs.half_made import NewFolders
from cbam_lightning.runs.wandb_setup import build_loggers, finish_wandb
from cbam_lightning.user_code.tracebacks import with_causes

_FINDERS = (LearningRateFinder, BatchSizeFinder)
# Options of the trainer that decide when training ends.
_LIMITS = ("max_epochs", "max_steps", "max_time", "min_epochs", "min_steps", "callbacks")


def run_trainer(args: Sequence[str], resumed: RunDirectory | None = None) -> None:
    """Run ``fit``, ``validate``, ``test`` or ``predict``.

    Args:
        args: The command line without the program's name.
        resumed: The run to resume; default: a new one is made.

    Raises:
        RunStopped: Training ended early, for a reason that the message gives.
        UsageError: The user made a mistake.
        OSError: The machine failed: the disk is full, a download broke off, and the like.
    """
    silence()
    outlive_readers()
    try:
        TrainerCLI(args, resumed)
    except ValueError as error:
        # jsonargparse wraps the error of a class that it makes in one about types
        explained = (cause for cause in with_causes(error) if isinstance(cause, EXPLAINED))
        raise next(explained, error)  # noqa: B904 - its own cause stays, for --debug


class TrainerCLI(TrainerOptions):
    """Lightning's command that files each run in a directory of its own and tracks it."""

    _occupied: RunDirectory | None = None  # where this process trains

    def __init__(self, args: Sequence[str], resumed: RunDirectory | None = None) -> None:
        self._start = TrainingStart()
        self._new_folders: NewFolders | None = None
        ending = "failed"
        try:
            super().__init__(args, resumed)
            ending = "ended"
        except (RunStopped, KeyboardInterrupt, SystemExit) as stop:  # SystemExit: Ctrl-C, in Lightning
            if getattr(stop, "exit_code", 0) != EXIT_DIVERGED:
                ending = "stopped"
            raise
        finally:
            if self._occupied is not None:
                self._occupied.note_ending(ending)

    def _add_instantiators(self) -> None:
        """Let the errors of whatever cannot be made name its option."""
        super()._add_instantiators()
        self._parts = Parts(self.config[self.config["subcommand"]])
        self.parser.add_instantiator(operator.call, object)
        known = self.parser._instantiators or {}
        self.parser._instantiators = {key: self._parts.watched(make) for key, make in known.items()}

    def instantiate_classes(self) -> None:
        """Make everything, and name the option of what could not be made.

        Raises:
            UsageError: With the error of that class; jsonargparse itself reports the last type that it tried.
        """
        try:
            super().instantiate_classes()
        except ValueError as error:
            if self._parts.failure is None or isinstance(error, UsageError):
                raise
            raise self._parts.failure  # noqa: B904 - which has its cause

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer around the run's directory."""
        require_from_data(self.model, self.datamodule, self._given)
        if self.subcommand != "predict":  # whose images are those that the model knows
            refuse_other_values(self._model_options(), self.datamodule, self._given)
        with self._mistakes(as_mistake):
            settle_rank(self._get(self.config_init, "trainer"))
        if self.subcommand != "fit" and not self.config[self.subcommand].get("ckpt_path"):
            require_weights(self.model, self._model_options())
        self.run_options = self._get(self.config_init, "run")
        # saved as given: for another metric the other one may be better
        self.config[self.subcommand]["checkpoint"]["mode"] = self._chosen_mode
        self.config[self.subcommand]["run"]["changed_data"] = False  # it is asked for once
        self.run = self._resumed or self._new_run()
        with self._mistakes(as_mistake):
            return super().instantiate_trainer(**self._trainer_options(), **kwargs)

    def _new_run(self) -> RunDirectory:
        """Make the run's directory, or resume the run of the given name."""
        options, fits = self.run_options, self.subcommand == "fit"
        folder = Path(options.root).expanduser() / self.experiment
        self._new_folders = NewFolders(folder / options.name if fits and options.name else folder)
        run = RunDirectory.create(options.root, self.experiment, options.name if fits else None)
        if fits and options.name and run.last.is_file():
            refuse_other_start(run, self.config[self.subcommand]["ckpt_path"])
            self._resumed = run
        return run

    def _trainer_options(self) -> dict[str, Any]:
        """Return the options of the trainer that are ours: plugins, loggers, callbacks."""
        if self.subcommand == "fit":
            self.run.occupy()
            self._occupied = self.run
        points = read_points(self._checkpoint_io.read(self.run.last)) if self._resumes else {}
        keeps = self._get(self.config_init, "trainer").get("enable_checkpointing") is not False
        if not keeps:
            self._parser(self.subcommand).callback_keys.remove("checkpoint")
        self.checkpoint = self._get(self.config_init, "checkpoint")
        if self.checkpoint.dirpath is None:
            self.checkpoint.dirpath = str(self.run.checkpoints.absolute())
        config = dict(self._get(self.config_init, "trainer"))
        plugins = _as_list(config.get("plugins"))
        refuse_checkpoint_io(plugins)
        plugins += [self._checkpoint_io, *([BatchNormSync()] if config.get("sync_batchnorm") else [])]
        options: dict[str, Any] = {"plugins": plugins}
        if config.get("default_root_dir") is None:
            options["default_root_dir"] = str(self.run.path)
        if config.get("logger") is None and not config.get("fast_dev_run"):
            tracking = self._get(self.config_init, "wandb")
            options["logger"] = build_loggers(self.run, self.experiment, tracking, self.subcommand, points)
        logs = bool(options.get("logger") or config.get("logger"))
        callbacks = _as_list(config.get("callbacks"))
        if self._resumes:  # what the finders found is in the checkpoint and in the configuration
            callbacks = [callback for callback in callbacks if not isinstance(callback, _FINDERS)]
        first = self._first_callbacks(keeps=keeps and not config.get("fast_dev_run"))
        # what a run logs that is to repeat to the bit has to repeat, too
        measures = logs and self.subcommand == "fit" and config.get("deterministic") is not True
        first += [Throughput()] if measures else []
        return {**options, "callbacks": [*first, *callbacks, *self._last_callbacks(logs)]}

    def _first_callbacks(self, keeps: bool) -> list[Callback]:
        """Return what saves, so that what others log comes after it, and then what seeds a step."""
        seeds = StepSeeds()
        if self.subcommand != "fit" or not keeps:
            return [seeds]
        options, trainer = self._get(self.config_init, "save"), self.config[self.subcommand]["trainer"]
        limits = repr([trainer[name] for name in _LIMITS])
        changed_data = self.run_options.changed_data
        return [ExactResume(self.run, options, self._checkpoint_io, seeds, limits, changed_data), seeds]

    def _last_callbacks(self, logs: bool) -> list[Callback]:
        config, parser = self.config[self.subcommand], self._parser(self.subcommand)
        names = unlinked(self.datamodule)
        stated = {name: value for name, value in self._model_options().items() if name in names}
        record = RunRecord(parser, config, self.run, stated, partial(read_config, parser))
        callbacks: list[Callback] = [record, self._start]
        model: Any = self.model
        if not hasattr(model, "picture_callback"):
            name = type(model).__name__
            rank_zero_info(f"{name} is not a Classifier: no pictures, no `weights export`, no `explain`.")
        elif pictures := model.picture_callback(self.run):
            callbacks.append(pictures)
        if self.subcommand == "predict":
            self.writer = getattr(model, "prediction_writer", RawPredictions)(self.run)
            callbacks.append(self.writer)
        if logs and self.subcommand == "fit":
            callbacks.append(LearningRateMonitor())
        return callbacks

    def _run_subcommand(self, subcommand: str) -> None:
        """Run it, and end the tracking in any case."""
        exit_code = 1
        with self._mistakes(partial(self._parts.mistake, trainer=self.trainer)):
            try:
                super()._run_subcommand(subcommand)
                exit_code = 0
            except RunStopped as stop:
                exit_code = stop.exit_code
                raise
            except RuntimeError as error:
                raise worker_failure(error, self.run) or error  # noqa: B904 - its cause stays, for --debug
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

    def after_fit(self) -> None:
        """Test the best checkpoint, or the last one if none is the best, and print where everything is."""
        written = [Path(self.checkpoint.best_model_path or ""), self.run.last]  # no best without a validation
        best = next(
            (path for path in written if path.is_file() and self._checkpoint_io.is_current(path)), None
        )
        tests = self.run_options.test_after_fit and _can_test(self.model, self.datamodule)
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        callbacks[:] = [callback for callback in callbacks if not isinstance(callback, _FINDERS)]
        if tests and not self.trainer.interrupted:
            self.trainer.test(self.model, datamodule=self.datamodule, ckpt_path=best, weights_only=True)
        if self.trainer.is_global_zero:
            print(fit_report(self.run, self.trainer, self.model, best))

    def after_validate(self) -> None:
        """Print where the results are."""
        self._print_written(self.run.results)

    after_test = after_validate

    def after_predict(self) -> None:
        """Print where the predictions are."""
        self._print_written(self.writer.path)

    def _print_written(self, path: Path) -> None:
        if self.trainer.is_global_zero:
            print(f"Written: {path}")


def _can_test(model: LightningModule, data: LightningDataModule | None) -> bool:
    """Return whether there is a test step, and data for it."""
    return is_overridden("test_step", model) and (
        is_overridden("test_dataloader", model)
        or (data is not None and is_overridden("test_dataloader", data, LightningDataModule))
    )


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]
