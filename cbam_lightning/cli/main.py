"""The command ``cbam-lightning``: runs its sub-commands, and reports mistakes in one line."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Sequence

from cbam_lightning import __version__
from cbam_lightning.cli.benchmark_commands import BENCHMARK
from cbam_lightning.cli.command_line import Command, Group, list_parser, run, summary
from cbam_lightning.cli.data_commands import DATA
from cbam_lightning.cli.explain_commands import EXPLAIN
from cbam_lightning.cli.home_folder import expand_words
from cbam_lightning.cli.model_commands import export, models, table
from cbam_lightning.cli.new_project import new
from cbam_lightning.cli.own_code import import_own_modules
from cbam_lightning.cli.study_commands import compare, study
from cbam_lightning.cli.weights_commands import WEIGHTS
from cbam_lightning.errors import RunStopped, UsageError, unknown_name
from cbam_lightning.user_code.tracebacks import user_line, without_worker_traceback

_TRAINER_COMMANDS = {
    "fit": "Train a network, then test its best checkpoint.",
    "validate": "Evaluate a checkpoint on the validation images.",
    "test": "Evaluate a checkpoint on the test images.",
    "predict": "Write the classes and probabilities of images as CSV, or detections as JSON.",
    "resume": "Resume an interrupted run exactly.",
}
_COMMANDS: dict[str, Command | Group] = {
    "new": new,
    "models": models,
    "table": table,
    "weights": WEIGHTS,
    "data": DATA,
    "export": export,
    "study": study,
    "explain": EXPLAIN,
    "compare": compare,
    "benchmark": BENCHMARK,
}
_SAVING_IMPORTS = (*_TRAINER_COMMANDS, "study")  # in the configuration of each run
_NOTES = """

Every command accepts
  --imports MODULE  import your own modules first, from the current folder or installed ones;
                    the environment variable CBAM_LIGHTNING_IMPORTS does the same
  --debug           show the whole traceback of any error"""
EXIT_USER, EXIT_MACHINE = 2, 1


def _show_help(args: list[str]) -> None:
    texts = _TRAINER_COMMANDS | {name: summary(command) for name, command in _COMMANDS.items()}
    description = "Train and use image classifiers and detectors with convolutional attention."
    parser = list_parser("cbam-lightning", description, "COMMAND", texts, _NOTES)
    parser.add_argument("--version", action="version", version=f"cbam_lightning {__version__}")
    parser.parse_args(args or ["--help"])


def _print(name: str, args: list[str]) -> None:
    """Run a command that prints, and end silently when the reader, such as ``head``, closes the pipe."""
    try:
        run(f"cbam-lightning {name}", _COMMANDS[name], args)
        sys.stdout.flush()
    except BrokenPipeError:
        # https://docs.python.org/3/library/signal.html#note-on-sigpipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(EXIT_MACHINE) from None


def _dispatch(args: list[str]) -> None:
    if not args or args[0].startswith("-"):
        _show_help(args)
        return
    command = args[0]
    args, modules = import_own_modules(args)
    if modules and command in _SAVING_IMPORTS:
        args = [*args, "--imports", json.dumps(modules)]
    if command in _TRAINER_COMMANDS:
        from cbam_lightning.cli.resuming import resume_run
        from cbam_lightning.cli.trainer import run_trainer

        if command == "resume":
            resume_run(args[1:])
        else:
            run_trainer(args)
    elif command in _COMMANDS:
        _print(command, args[1:])
    else:
        raise unknown_name(kind="command", given=command, allowed=[*_TRAINER_COMMANDS, *_COMMANDS])


def _explain(error: Exception) -> tuple[str, int] | None:
    """Return the message for an error and the exit code; None for a bug in this package."""
    if isinstance(error, UsageError):
        return without_worker_traceback(error), EXIT_USER
    if isinstance(error, OSError):
        return str(error) or type(error).__name__, EXIT_MACHINE
    line = user_line(error)
    return None if line is None else (f"{line}. --debug shows the whole traceback.", EXIT_USER)


def _one_line(message: object) -> str:
    """Return a message without line breaks and control characters, which file names may contain."""
    text = " ".join(str(message).split())
    return "".join(character if character.isprintable() else "?" for character in text)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        args: The command line without the program's name. Default: that of the process.

    Returns:
        The exit code: 0, 2 for a mistake of the user, 1 for a failure of the machine such as a full disk, 3
        if the loss became NaN or Inf, 128 + its number for a signal that ended the run. With ``--debug``
        anywhere on the command line, every error shows its whole traceback.
    """
    words = list(sys.argv[1:] if args is None else args)
    try:
        _dispatch(expand_words([word for word in words if word != "--debug"]))
    except RunStopped as stop:
        if str(stop):
            print(f"cbam-lightning: {_one_line(stop)}", file=sys.stderr)
        return stop.exit_code
    except SystemExit as stop:  # --help and --version
        return stop.code if isinstance(stop.code, int) else 0
    except Exception as error:
        explained = _explain(error)
        if explained is None:
            raise
        if "--debug" in words:
            traceback.print_exc()
        message, exit_code = explained
        print(f"cbam-lightning: error: {_one_line(message)}", file=sys.stderr)
        return exit_code
    return 0
