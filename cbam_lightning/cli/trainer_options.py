"""The options of ``fit``, ``validate``, ``test`` and ``predict``, and how they become a configuration.

Importing the tasks and the data modules here is what lets YAML and the command line use bare class names.
"""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader, set_dumper, set_loader
from pytorch_lightning import LightningDataModule, LightningModule
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

import cbam_lightning.data
import cbam_lightning.tasks  # noqa: F401
from cbam_lightning.callbacks.resume.checkpointing import AtomicCheckpointIO, SaveOptions
from cbam_lightning.cli.config_classes import leave_out_defaults, refuse_functions
from cbam_lightning.cli.data_links import link
from cbam_lightning.cli.evaluated_checkpoint import find_checkpoint, run_of
from cbam_lightning.cli.home_folder import expand_values
from cbam_lightning.cli.monitors import AUTO, resolve_monitor
from cbam_lightning.cli.option_errors import broken_yaml, explain
from cbam_lightning.cli.option_parser import OptionParser, refuse_unwritten
from cbam_lightning.cli.own_code import CONFIG_OPTIONS, options_with_values
from cbam_lightning.cli.predicted_images import (
    default_data,
    model_of_weights,
    needs_default_data,
    without_data_set,
)
from cbam_lightning.errors import UsageError
from cbam_lightning.runs.directory import RunDirectory, RunOptions, experiment_name
from cbam_lightning.runs.names import check_names
from cbam_lightning.runs.settings import dump_yaml, flatten, read_word
from cbam_lightning.runs.wandb_setup import WandbOptions
from cbam_lightning.weights.compatibility import model_of_checkpoint

# Options that the model resolves by itself, from its weights for example.
_RESOLVED = (
    *("network", "attention", "attention_options", "network_options"),
    *("image_mean", "image_std", "trainable_stages", "freeze_batch_norm"),
)
# Options that name the weights a model starts from.
_WEIGHTS = ("weights", "backbone_weights")
_CLASSIFIER = "cbam_lightning.tasks.Classifier"
_READ_YAML = get_loader("yaml")
_DEFAULTS = {
    "model": {"class_path": _CLASSIFIER},
    "checkpoint.monitor": AUTO,
    "checkpoint.mode": AUTO,
    "checkpoint.filename": "best",
    "checkpoint.enable_version_counter": False,
}


class TrainerOptions(LightningCLI):
    """LightningCLI with our options and defaults; a checkpoint fills in what the user leaves open.

    Args:
        args: The command line without the program's name.
        resumed: The run to resume; default: a new one is made.
    """

    def __init__(self, args: Sequence[str], resumed: RunDirectory | None = None) -> None:
        self._resumed = resumed
        self._checkpoint_io = AtomicCheckpointIO()
        self._given = dict[str, Any]()
        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            parser_class=OptionParser,
            args=list(args),
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Make a parser that raises instead of ending the process, and takes no abbreviations for options."""
        set_loader("yaml", partial(read_word, read=_READ_YAML), (yaml.YAMLError,))
        set_dumper("yaml", dump_yaml)
        return super().init_parser(exit_on_error=False, allow_abbrev=False, **kwargs)

    def _prepare_subcommand_parser(
        self, klass: type, subcommand: str, **kwargs: Any
    ) -> LightningArgumentParser:
        """Read every checkpoint, including remote ones, without running its code."""
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        parser.set_defaults(weights_only=True)
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add our option groups, and link what the model has to know of the data."""
        parser.add_argument(
            "--imports",
            type=list[str] | str,
            default=[],
            help="your own modules to import first; from the current folder, or installed",
        )
        parser.add_class_arguments(RunOptions, "run")
        parser.add_class_arguments(WandbOptions, "wandb")
        parser.add_class_arguments(SaveOptions, "save")
        # ExactResume saves the last state, in its own way
        parser.add_class_arguments(
            ModelCheckpoint, "checkpoint", fail_untyped=False, sub_configs=True, skip={"save_last"}
        )
        parser.callback_keys.append("checkpoint")
        parser.set_defaults(_DEFAULTS)
        link(parser, self._model_options)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the command line, once the checkpoint that it names has filled in the defaults.

        Raises:
            UsageError: An option, a name or a value is wrong, or the checkpoint cannot be used.
        """
        configs = [path for option, path in options_with_values(args) if option in CONFIG_OPTIONS and path]
        if problem := broken_yaml(configs):
            raise UsageError(problem)
        self._given = given_options(args)
        asked = given_options(args, without=run_of)
        path = self._given.get("ckpt_path")
        if not self._resumes:
            path = find_checkpoint(args[0], configs, asked, path, self._checkpoint_io)
        if path and path != self._given.get("ckpt_path"):
            self._given["ckpt_path"] = path
            args = [*args, "--ckpt_path", path]
        # that of a resumed run is its own, and what it started from may be gone
        is_local = path is not None and path != "hpc" and not self._resumes and "://" not in path
        if is_local:
            self._fill_in(args[0], str(path))
        elif args[0] == "predict" and self._given.get("model.weights") and needs_default_data(self._given):
            self._fill_in_images(model_of_weights(self._given, _CLASSIFIER))
        try:
            self.config = parser.parse_args(args)
        except ArgumentError as error:
            parsers = self._subcommand_parsers.values()
            names = [action.dest for parser in parsers for action in parser._actions]
            raise UsageError(explain(str(error), names)) from None
        config = self.config[self.config["subcommand"]]
        leave_out_defaults(config)
        refuse_functions(config)
        if is_local:  # its values replace those of the files that its run started from
            self._set_model_options({name: None for name in _WEIGHTS if name in self._model_options()})

    def _fill_in(self, command: str, path: str) -> None:
        """Make the model of a checkpoint the default; in Lightning's own CLI it wins over the user.

        https://github.com/Lightning-AI/pytorch-lightning/pull/21455
        """
        options = {name.removeprefix("model."): value for name, value in self._given.items()}
        model = model_of_checkpoint(self._checkpoint_io.read(path), path, options, _CLASSIFIER)
        self._parser(command).set_defaults({"model": model})
        if command == "predict":
            self._fill_in_images(model)

    def _fill_in_images(self, model: dict[str, Any]) -> None:
        """Make any images to predict the default data, prepared as a model expects them."""
        if data := default_data(self._given, model):
            self._parser("predict").set_defaults({"model": model, "data": data})
            # of which `require_from_data` would say that nobody gave them
            self._given |= {f"model.{name}": value for name, value in model["init_args"].items()}

    def _parse_ckpt_path(self) -> None:
        """Do nothing: ``parse_arguments`` reads the checkpoint."""

    def _model_options(self) -> Any:
        return self.config[self.config["subcommand"]]["model"].get("init_args") or {}

    def _set_model_options(self, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            self._model_options()[name] = value

    @property
    def _resumes(self) -> bool:
        """Whether there is a checkpoint of the run to resume from."""
        return self._resumed is not None and self._resumed.last.is_file()

    def before_instantiate_classes(self) -> None:
        """Resolve the experiment's name, and what makes a checkpoint the best, in the saved configuration."""
        config = self.config[self.subcommand]
        expand_values(config)
        if self.subcommand == "predict" and (images := without_data_set(config["data"])):
            config["data"] = self._parser("predict").parse_object({"data": images})["data"]
        if config["run"]["experiment"] is None:
            config["run"]["experiment"] = experiment_name([str(path) for path in config.get("config") or []])
        self.experiment: str = config["run"]["experiment"]
        if self._resumed is None:
            fits = self.subcommand == "fit"
            check_names(config["run"]["root"], self.experiment, config["run"]["name"] if fits else None)
        self._chosen_mode = config["checkpoint"]["mode"]
        resolve_monitor(config)
        options = self._model_options()
        self._weights = {name: options[name] for name in _WEIGHTS if self._resumed and name in options}
        if self._resumes:
            # the checkpoint has all values, and the files may be gone
            self._set_model_options(dict.fromkeys(self._weights))

    def after_instantiate_classes(self) -> None:
        """Write the resolved network to the configuration, so that it needs no other file."""
        self._set_model_options(self._weights)
        options, hparams = self._model_options(), self.model.hparams
        names = [name for name in _RESOLVED if name in options and name in hparams]
        self._set_model_options({name: hparams[name] for name in names})

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Add the checkpoint to resume from."""
        arguments = super()._prepare_subcommand_kwargs(subcommand)
        if self._resumed is not None and self._resumes:
            arguments["ckpt_path"] = str(self._resumed.last)
        return arguments


def given_options(
    args: Sequence[str], without: Callable[[str], object] = lambda path: False
) -> dict[str, Any]:
    """Return what the command line and its configuration files set, by dotted name.

    ``{"ckpt_path": "last.ckpt", "model.network": "resnet20"}``, for example. The last word of an option
    counts; a list, or a value that takes several words, is not complete.

    Args:
        args: The command line; its configuration files are valid YAML.
        without: Returns something true for configuration files to leave out.
    """
    given: dict[str, Any] = {}
    for option, value in options_with_values(args):
        if option in CONFIG_OPTIONS and value:
            if without(value):
                continue
            content = yaml.safe_load(Path(value).read_text())
            refuse_unwritten(content, value)
            given |= flatten(content) if isinstance(content, Mapping) else {}
        else:
            given[option.removeprefix("--").replace(".init_args.", ".")] = value
    return given
