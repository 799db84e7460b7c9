"""The one command: it names the sub-commands, and turns mistakes into one line and an exit code.

Sub-commands import what they need when they run, so that help and lists answer at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from cbam_lightning import __version__
from cbam_lightning.errors import UsageError, unknown_name

_TRAINER_COMMANDS = {
    "fit": "train a network, then test its best checkpoint",
    "validate": "evaluate a checkpoint on the validation images",
    "test": "evaluate a checkpoint on the test images",
    "predict": "write class and probability of images as CSV",
}
_PLAIN_COMMANDS = {
    "models": "list the networks",
    "weights": "export a run as a file to share, or show what such a file says",
    "benchmark": "measure what Lightning's loop costs",
}
EXIT_USER, EXIT_MACHINE = 2, 1


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are exceptions, like all others here."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse has to say, with where to read on."""
        text = f"{message}. See `{self.prog} --help`."
        raise UsageError(text)


def _parser() -> _Parser:
    commands = {**_TRAINER_COMMANDS, **_PLAIN_COMMANDS}
    listed = "\n".join(f"  {name:<11}{text}" for name, text in commands.items())
    parser = _Parser(
        prog="cbam-lightning",
        usage="cbam-lightning [--version] [--help] COMMAND ...",
        description="Train and use image classifiers with convolutional attention.",
        epilog=f"commands:\n{listed}\n\n`cbam-lightning COMMAND --help` tells more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"cbam_lightning {__version__}")
    return parser


def _models(args: list[str]) -> None:
    from cbam_lightning.models import describe_models

    parser = _Parser(prog="cbam-lightning models", description="List the networks.")
    parser.add_argument("pattern", nargs="?", default="*", help="shell pattern of names, such as 'resnet*'")
    found = describe_models(parser.parse_args(args).pattern)
    if not found:
        message = f"no network is called {args[0]!r}; `cbam-lightning models` lists all of them."
        raise UsageError(message)
    width = max(map(len, found))
    for name, description in found.items():
        print(f"{name:<{width}}  {description}")


def _weights(args: list[str]) -> None:
    parser = _Parser(prog="cbam-lightning weights", description="Checkpoints to share.")
    actions = parser.add_subparsers(dest="action", required=True, parser_class=_Parser)
    export = actions.add_parser("export", help="write the network of a run or .ckpt as .safetensors")
    export.add_argument(
        "source", metavar="RUN_OR_CKPT", help="a run's directory (its best checkpoint) or a .ckpt"
    )
    export.add_argument("out", metavar="OUT.safetensors")
    show = actions.add_parser("show", help="print what a checkpoint says of itself")
    show.add_argument("file", metavar="FILE", help="a .safetensors or .ckpt file")
    given = parser.parse_args(args)
    if given.action == "export":
        from cbam_lightning.runs.export import export_weights

        header = export_weights(given.source, given.out)
        print(f"{header.describe()}\nWritten: {given.out}")
    else:
        from cbam_lightning.weights import load_checkpoint

        checkpoint = load_checkpoint(given.file)
        print(checkpoint.header.describe())
        print(f"{'values':<18}{sum(v.numel() for v in checkpoint.state_dict.values())}")


def _benchmark(args: list[str]) -> None:
    parser = _Parser(prog="cbam-lightning benchmark", description="Measure, alternating, in one run.")
    kinds = parser.add_subparsers(dest="kind", required=True, parser_class=_Parser)
    loop = kinds.add_parser("loop", help="images/s of `fit` against a plain PyTorch loop")
    loop.add_argument("--network", default="resnet20")
    loop.add_argument("--attention", default="cbam")
    loop.add_argument("--batch-size", type=int, default=128)
    loop.add_argument("--steps", type=int, default=20, help="training steps in each measurement")
    loop.add_argument("--repeats", type=int, default=7, help="measurements of each loop")
    given = parser.parse_args(args)
    from cbam_lightning.tasks.benchmark import benchmark_loop

    print(benchmark_loop(given.network, given.attention, given.batch_size, given.steps, given.repeats))


def _train(args: list[str]) -> None:
    from cbam_lightning.trainer_cli import run_trainer

    run_trainer(args)


def _dispatch(args: list[str]) -> None:
    handlers: dict[str, Callable[[list[str]], None]] = {
        "models": _models,
        "weights": _weights,
        "benchmark": _benchmark,
    }
    if not args or args[0].startswith("-"):
        _parser().parse_args(args or ["--help"])
        return
    command = args[0]
    if command in _TRAINER_COMMANDS:
        _train(args)
    elif command in handlers:
        handlers[command](args[1:])
    else:
        kind = "command"
        raise unknown_name(kind, command, [*_TRAINER_COMMANDS, *handlers])


def main(args: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        args: The command line without the program's name; left out, it is the process's.

    Returns:
        The exit code: 0, 2 for a mistake of the user, 1 for a failure of the machine such as a full disk.
        With the environment variable ``CBAM_LIGHTNING_DEBUG`` set, errors keep their traceback.
    """
    try:
        _dispatch(list(sys.argv[1:] if args is None else args))
    except (UsageError, OSError) as error:
        if os.environ.get("CBAM_LIGHTNING_DEBUG"):
            raise
        text = " ".join(str(error).split()) or type(error).__name__
        print(f"cbam-lightning: error: {text}", file=sys.stderr)
        return EXIT_USER if isinstance(error, UsageError) else EXIT_MACHINE
    except SystemExit as stop:  # --help and --version
        return stop.code if isinstance(stop.code, int) else 0
    return 0
