"""The commands beside training: each parses its own options and names the function that does the work.

They import what they need when they run, so that help and lists answer at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NoReturn

from cbam_lightning.errors import UsageError


class Parser(argparse.ArgumentParser):
    """A parser whose errors are exceptions, like all others here, and that takes no abbreviations."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Raise what argparse has to say, with where to read on."""
        text = f"{message}. See `{self.prog} --help`."
        raise UsageError(text)


def models(args: list[str]) -> None:
    """List networks, or the insertion points for attention in one."""
    parser = Parser(prog="cbam-lightning models", description="List the networks, and the detectors on them.")
    parser.add_argument(
        "pattern",
        nargs="?",
        default="*",
        help="shell pattern of names, such as 'resnet*', 'torchvision/*' or 'timm/*'",
    )
    parser.add_argument(
        "--places", action="store_true", help="list the insertion points for attention in this network"
    )
    parser.add_argument("--where", nargs="+", help="residual, stage, or patterns of submodule names")
    given = parser.parse_args(args)
    if given.places or given.where:
        print(_places(given.pattern, given.where))
        return
    found = _described(given.pattern)
    if not found:
        message = f"no network is called {given.pattern!r}; `cbam-lightning models` lists all of them."
        raise UsageError(message)
    width = max(map(len, found))
    for name, description in found.items():
        print(f"{name:<{width}}  {description}".rstrip())


def _described(pattern: str) -> dict[str, str]:
    if "/" in pattern:
        from cbam_lightning.models.external import list_external

        return dict.fromkeys(list_external(pattern), "")
    from cbam_lightning.models import describe_models
    from cbam_lightning.models.detection import describe_detectors

    return describe_models(pattern) | describe_detectors(pattern)


def _places(network: str, where: list[str] | None) -> str:
    from cbam_lightning.models import create_model
    from cbam_lightning.models.insertion import describe_insertion_points, plan_insertion

    return describe_insertion_points(plan_insertion(create_model(network), where))


def table(args: list[str]) -> None:
    """Print the paper's table of complexities beside ours."""
    parser = Parser(
        prog="cbam-lightning table",
        description="Parameters and multiply-accumulates of every published row beside ours.",
    )
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="further networks to count")
    parser.add_argument("--attention", nargs="+", default=["none"], help="of the further networks")
    parser.add_argument("--size-px", type=int, default=224, help="image side of the further networks")
    parser.add_argument("--format", default="terminal", help="terminal, csv, markdown or json")
    parser.add_argument("--detection", action="store_true", help="the paper's detectors instead")
    given = parser.parse_args(args)
    if given.detection:
        _detection_table(given)
        return
    from cbam_lightning.models.published import table as published_table

    extra = [(network, attention) for network in given.networks for attention in given.attention]
    print(published_table(extra, size_px=given.size_px, format=given.format))


def _detection_table(given: argparse.Namespace) -> None:
    from cbam_lightning.models.published import detection_table

    if given.networks:
        message = f"--detection prints the paper's detectors alone; leave {' '.join(given.networks)} out."
        raise UsageError(message)
    print(detection_table(given.format))


def weights(args: list[str]) -> None:
    """List, show, verify, import and export checkpoints."""
    parser = Parser(prog="cbam-lightning weights", description="Checkpoints to share.")
    actions = parser.add_subparsers(dest="action", required=True, parser_class=Parser)
    for action, (text, add_arguments, _) in _WEIGHTS_ACTIONS.items():
        add_arguments(actions.add_parser(action, help=text, description=text))
    given = parser.parse_args(args)
    _WEIGHTS_ACTIONS[given.action][2](given)


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pattern", nargs="?", default="*", help="shell pattern of names")


def _list(given: argparse.Namespace) -> None:
    from cbam_lightning.weights.checkpoint_registry import find, list_weights

    names = list_weights(given.pattern)
    if not names:
        message = f"no checkpoint is called {given.pattern!r}; `cbam-lightning weights list` lists them all."
        raise UsageError(message)
    width = max(map(len, names))
    for name in names:
        print(f"{name:<{width}}  {find(name).summary()}")


def _file_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="NAME_OR_FILE", help="of `weights list`, or a .safetensors or .ckpt")


def _show(given: argparse.Namespace) -> None:
    from cbam_lightning.models import open_checkpoint
    from cbam_lightning.weights.checkpoint_registry import card_path, find, list_weights

    checkpoint = open_checkpoint(given.file)
    if given.file in list_weights():
        print(find(given.file).describe())
        if card_path(given.file).is_file():
            print(f"{'card':<18}{card_path(given.file)}")
    print(checkpoint.header.describe())
    print(f"{'values':<18}{sum(v.numel() for v in checkpoint.state_dict.values())}")


def _verify_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="*", metavar="NAME_OR_FILE", help="of `weights list`, or files")
    parser.add_argument("--all", action="store_true", help="all of `weights list`")


def _verify(given: argparse.Namespace) -> None:
    from cbam_lightning.benchmarks.accuracy import verify_all
    from cbam_lightning.weights.checkpoint_registry import list_weights

    if given.all == bool(given.files):
        message = "give the names or files of checkpoints to verify, or --all for all of `weights list`."
        raise UsageError(message)
    for line in verify_all(given.files or list_weights()):
        print(line, flush=True)


def _import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="a .pth.tar, .pth or .safetensors of other code")
    parser.add_argument("out", metavar="OUT.safetensors")
    parser.add_argument("--network", help="if it is not found out, such as torchvision/densenet121")
    parser.add_argument("--dataset", help="what the network was trained on, for the header")


def _import(given: argparse.Namespace) -> None:
    from cbam_lightning.models.weight_import import import_weights

    header, report = import_weights(given.source, given.out, network=given.network, dataset=given.dataset)
    print(f"{report}\n{header.describe()}\nWritten: {given.out}")


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="RUN_OR_CKPT", help="a run's directory (its best checkpoint) or a .ckpt"
    )
    parser.add_argument("out", metavar="OUT.safetensors")


def _export(given: argparse.Namespace) -> None:
    from cbam_lightning.runs.export import export_weights

    header = export_weights(given.source, given.out)
    print(f"{header.describe()}\nWritten: {given.out}")


_Action = tuple[str, Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], None]]
_WEIGHTS_ACTIONS: dict[str, _Action] = {
    "list": ("list the checkpoints that can be named", _list_arguments, _list),
    "show": ("print what a checkpoint says of itself", _file_argument, _show),
    "verify": ("load checkpoints, and measure their accuracy again", _verify_arguments, _verify),
    "import": ("translate the weights of other code", _import_arguments, _import),
    "export": ("write the network of a run or .ckpt as .safetensors", _export_arguments, _export),
}


def export(args: list[str]) -> None:
    """Write a network for use without this package."""
    text = "Write a network for use without this package."
    parser = Parser(prog="cbam-lightning export", description=text)
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="of `weights list`, or a .safetensors or .ckpt"
    )
    parser.add_argument("out", nargs="?", help="left out: beside the checkpoint, with the format's ending")
    parser.add_argument("--to", required=True, help="onnx or torch_export")
    given = parser.parse_args(args)
    from cbam_lightning.models.network_export import export_network

    exported = export_network(given.checkpoint, given.out, given.to)
    size = "any size" if exported.dynamic_size else "this size only"
    print(exported.header.describe())
    print(f"{'images':<18}normalised float32, any batch, {size}")
    print(f"{'difference':<18}{exported.difference:.1e} at most, of logits, from the network itself")
    print(f"Written: {exported.path}")
