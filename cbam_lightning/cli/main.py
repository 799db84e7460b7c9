"""The one command: it names the sub-commands, and turns mistakes into one line and an exit code."""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence

from cbam_lightning import __version__
from cbam_lightning.cli import benchmark, commands, data, explain, new, study
from cbam_lightning.cli.own_code import import_own_modules
from cbam_lightning.errors import RunStopped, UsageError, unknown_name
from cbam_lightning.user_code.tracebacks import users_line, without_worker_traceback

_TRAINER_COMMANDS = {
    "fit": "train a network, then test its best checkpoint",
    "validate": "evaluate a checkpoint on the validation images",
    "test": "evaluate a checkpoint on the test images",
    "predict": "write class and probability of images as CSV, or detections as JSON",
    "resume": "go on with a training that was cut off, as if nothing had happened",
}
_PLAIN_COMMANDS: dict[str, tuple[str, Callable[[list[str]], None]]] = {
    "new": ("write a small project of your own to start from", new.new),
    "models": ("list the networks and detectors, and where attention would go in them", commands.models),
    "table": ("parameters and FLOPs of the paper's networks, published and ours", commands.table),
    "weights": ("list, show, verify, import and export checkpoints", commands.weights),
    "data": ("write class folders as shards, which are read faster; draw a detection set", data.data),
    "export": ("write a network as ONNX or torch.export program", commands.export),
    "study": ("train a grid of arms and seeds, or what is left of it", study.study),
    "explain": ("show what networks look at, and ask people about it", explain.explain),
    "compare": ("compare finished runs: differences, intervals, costs", study.compare),
    "benchmark": (
        "measure attention, networks, reading images and the training loop",
        benchmark.benchmark,
    ),
}
_SAVING_IMPORTS = (*_TRAINER_COMMANDS, "study")  # in the configuration of each run
_EVERYWHERE = (
    "Every command takes --imports MODULE, which imports modules of yours first, from the current folder\n"
    "or installed ones, as does the environment variable CBAM_LIGHTNING_IMPORTS; and --debug, which shows\n"
    "the whole traceback of any error."
)
EXIT_USER, EXIT_MACHINE = 2, 1


def _parser() -> commands.Parser:
    texts = _TRAINER_COMMANDS | {name: text for name, (text, _) in _PLAIN_COMMANDS.items()}
    listed = "\n".join(f"  {name:<11}{text}" for name, text in texts.items())
    parser = commands.Parser(
        prog="cbam-lightning",
        usage="cbam-lightning [--version] [--help] COMMAND ...",
        description="Train and use image classifiers and detectors with convolutional attention.",
        epilog=f"commands:\n{listed}\n\n`cbam-lightning COMMAND --help` tells more.\n\n{_EVERYWHERE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"cbam_lightning {__version__}")
    return parser


def _train(args: list[str]) -> None:
    from cbam_lightning.cli.trainer_commands import resume_run, run_trainer

    if args[0] == "resume":
        resume_run(args[1:])
    else:
        run_trainer(args)


def _print(command: Callable[[list[str]], None], args: list[str]) -> None:
    """Run a command that prints, and end silently when the reader, such as `head`, has seen enough."""
    try:
        command(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # https://docs.python.org/3/library/signal.html#note-on-sigpipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(EXIT_MACHINE) from None


def _dispatch(args: list[str]) -> None:
    if not args or args[0].startswith("-"):
        _parser().parse_args(args or ["--help"])
        return
    command = args[0]
    args, modules = import_own_modules(args)
    if modules and command in _SAVING_IMPORTS:
        args = [*args, "--imports", json.dumps(modules)]
    if command in _TRAINER_COMMANDS:
        _train(args)
    elif command in _PLAIN_COMMANDS:
        _print(_PLAIN_COMMANDS[command][1], args[1:])
    else:
        raise unknown_name(kind="command", given=command, allowed=[*_TRAINER_COMMANDS, *_PLAIN_COMMANDS])


def _explained(error: Exception) -> tuple[str, int] | None:
    """Return what to say of an error, and the exit code; None for a defect of ours."""
    if isinstance(error, UsageError):
        return without_worker_traceback(error), EXIT_USER
    if isinstance(error, OSError):
        return str(error) or type(error).__name__, EXIT_MACHINE
    line = users_line(error)
    return None if line is None else (f"{line}. --debug shows the whole traceback.", EXIT_USER)


def _one_line(told: object) -> str:
    """Return the text without line breaks and control characters, which names of files may hold."""
    text = " ".join(str(told).split())
    return "".join(character if character.isprintable() else "?" for character in text)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        args: The command line without the program's name; left out, it is the process's.

    Returns:
        The exit code: 0, 2 for a mistake of the user, 1 for a failure of the machine such as a full disk,
        3 for a loss that is no number any more, 128 + its number for a signal that ended the training. With
        ``--debug`` anywhere in the line, every error shows its whole traceback.
    """
    words = list(sys.argv[1:] if args is None else args)
    try:
        _dispatch([word for word in words if word != "--debug"])
    except RunStopped as stop:
        if str(stop):
            print(f"cbam-lightning: {_one_line(stop)}", file=sys.stderr)
        return stop.exit_code
    except SystemExit as stop:  # --help and --version
        return stop.code if isinstance(stop.code, int) else 0
    except Exception as error:
        told = _explained(error)
        if told is None:
            raise
        if "--debug" in words:
            traceback.print_exc()
        message, exit_code = told
        print(f"cbam-lightning: error: {_one_line(message)}", file=sys.stderr)
        return exit_code
    return 0
