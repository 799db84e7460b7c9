"""``cbam-lightning weights``: list, show, verify, import and export checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from cbam_lightning.cli.command_line import Group
from cbam_lightning.errors import UsageError
from cbam_lightning.tables import aligned

_Source = Annotated[str, "NAME_OR_FILE"]
_Out = Annotated[str, "OUT.safetensors"]


def list_checkpoints(pattern: str = "*") -> None:
    """List the checkpoints that have a name.

    Args:
        pattern: Shell pattern of names.
    """
    from cbam_lightning.weights.checkpoint_registry import find, list_weights

    names = list_weights(pattern)
    if not names:
        raise UsageError(f"no checkpoint is called {pattern!r}; `cbam-lightning weights list` lists all.")
    print("\n".join(aligned([(name, find(name).summary()) for name in names], left=(0, 1))))


def show(file: _Source) -> None:
    """Print the header of a checkpoint.

    Args:
        file: A name from `weights list`, or a .safetensors or .ckpt file.
    """
    from cbam_lightning.models.pretrained import open_checkpoint
    from cbam_lightning.weights.checkpoint_registry import card_path, find, list_weights

    checkpoint = open_checkpoint(file)
    if file in list_weights():
        print(find(file).describe())
        if card_path(file).is_file():
            print(f"{'card':<18}{card_path(file)}")
    print(checkpoint.header.describe())
    print(f"{'values':<18}{sum(v.numel() for v in checkpoint.state_dict.values())}")


def verify(files: Sequence[_Source] = (), *, all: bool = False) -> None:  # noqa: A002 - the name of the option
    """Load checkpoints and measure their accuracy again.

    Args:
        files: Names from `weights list`, or files.
        all: Verify every checkpoint of `weights list`.
    """
    from cbam_lightning.benchmarks.accuracy import verify_all
    from cbam_lightning.weights.checkpoint_registry import list_weights

    if all == bool(files):
        raise UsageError("give names or files of checkpoints, or --all for all of `weights list`.")
    for line in verify_all(files or list_weights()):
        print(line, flush=True)


def import_other(
    source: str,
    out: _Out,
    *,
    network: str | None = None,
    attention: str | None = None,
    dataset: str | None = None,
) -> None:
    """Convert the weights of other code.

    Args:
        source: A .pth.tar, .pth or .safetensors file of other code.
        out: File to write.
        network: Name of the network, such as torchvision/densenet121. Default: recognised from the weights.
        attention: Name of its attention, where no value shows it, such as simam. Default: recognised from the
            weights.
        dataset: What the network was trained on, for the header.
    """
    from cbam_lightning.models.weight_import import import_weights

    header, report = import_weights(source, out, network=network, attention=attention, dataset=dataset)
    print(f"{report}\n{header.describe()}\nWritten: {out}")


def export(run_or_ckpt: str, out: _Out) -> None:
    """Write the network of a run or .ckpt as .safetensors.

    Args:
        run_or_ckpt: A run directory (its best checkpoint is taken) or a .ckpt file.
        out: File to write.
    """
    from cbam_lightning.runs.export_weights import export_weights

    print(f"{export_weights(run_or_ckpt, out).describe()}\nWritten: {out}")


WEIGHTS = Group(
    "List, show, verify, import and export checkpoints.",
    {"list": list_checkpoints, "show": show, "verify": verify, "import": import_other, "export": export},
)
