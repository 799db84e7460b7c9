"""The one command: it names the sub-commands, and turns mistakes into one line and an exit code."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from cbam_lightning import __version__, benchmark_cli, commands, data_cli, explain_cli, study_cli
from cbam_lightning.errors import RunStopped, UsageError, unknown_name

_TRAINER_COMMANDS = {
    "fit": "train a network, then test its best checkpoint",
    "validate": "evaluate a checkpoint on the validation images",
    "test": "evaluate a checkpoint on the test images",
    "predict": "write class and probability of images as CSV, or detections as JSON",
    "resume": "go on with a training that was cut off, as if nothing had happened",
}
_PLAIN_COMMANDS: dict[str, tuple[str, Callable[[list[str]], None]]] = {
    "models": ("list the networks and detectors, and where attention would go in them", commands.models),
    "table": ("parameters and FLOPs of the paper's networks, published and ours", commands.table),
    "weights": ("list, show, verify, import and export checkpoints", commands.weights),
    "data": ("write class folders as shards, which are read faster; draw a detection set", data_cli.data),
    "export": ("write a network as ONNX or torch.export program", commands.export),
    "study": ("train a grid of arms and seeds, or what is left of it", study_cli.study),
    "explain": ("show what networks look at, and ask people about it", explain_cli.explain),
    "compare": ("compare finished runs: differences, intervals, costs", study_cli.compare),
    "benchmark": (
        "measure attention, networks, reading images and the training loop",
        benchmark_cli.benchmark,
    ),
}
EXIT_USER, EXIT_MACHINE = 2, 1


def _parser() -> commands.Parser:
    texts = _TRAINER_COMMANDS | {name: text for name, (text, _) in _PLAIN_COMMANDS.items()}
    listed = "\n".join(f"  {name:<11}{text}" for name, text in texts.items())
    parser = commands.Parser(
        prog="cbam-lightning",
        usage="cbam-lightning [--version] [--help] COMMAND ...",
        description="Train and use image classifiers and detectors with convolutional attention.",
        epilog=f"commands:\n{listed}\n\n`cbam-lightning COMMAND --help` tells more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"cbam_lightning {__version__}")
    return parser


def _train(args: list[str]) -> None:
    from cbam_lightning.trainer_commands import resume_run, run_trainer

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
    if command in _TRAINER_COMMANDS:
        _train(args)
    elif command in _PLAIN_COMMANDS:
        _print(_PLAIN_COMMANDS[command][1], args[1:])
    else:
        raise unknown_name(kind="command", given=command, allowed=[*_TRAINER_COMMANDS, *_PLAIN_COMMANDS])


def _one_line(error: Exception) -> str:
    """Return the text without line breaks and control characters, which names of files may hold."""
    text = " ".join(str(error).split()) or type(error).__name__
    return "".join(character if character.isprintable() else "?" for character in text)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        args: The command line without the program's name; left out, it is the process's.

    Returns:
        The exit code: 0, 2 for a mistake of the user, 1 for a failure of the machine such as a full disk,
        3 for a loss that is no number any more, 128 + its number for a signal that ended the training. With
        the environment variable ``CBAM_LIGHTNING_DEBUG`` set, errors keep their traceback.
    """
    try:
        _dispatch(list(sys.argv[1:] if args is None else args))
    except (UsageError, OSError) as error:
        if os.environ.get("CBAM_LIGHTNING_DEBUG"):
            raise
        print(f"cbam-lightning: error: {_one_line(error)}", file=sys.stderr)
        return EXIT_USER if isinstance(error, UsageError) else EXIT_MACHINE
    except RunStopped as stop:
        if str(stop):
            print(f"cbam-lightning: {_one_line(stop)}", file=sys.stderr)
        return stop.exit_code
    except SystemExit as stop:  # --help and --version
        return stop.code if isinstance(stop.code, int) else 0
    return 0
