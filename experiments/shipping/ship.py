"""Add the network of finished runs to the checkpoints that this package ships.

    python -m experiments.shipping.ship RUN_DIR ... --name NAME --licence MIT --command "cbam-lightning …"

The runs share a configuration, have different seeds, and were trained and tested on the full Fashion-MNIST.
The run with the median ``test/top1`` (the lower of two medians) is exported, measured again, and described in
the table and in a model card.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from cbam_lightning.benchmarks.accuracy import SOURCES, Measured, compare, measure
from cbam_lightning.errors import UsageError
from cbam_lightning.files import atomic_write
from cbam_lightning.models.factory import rebuild
from cbam_lightning.runs.directory import RunDirectory
from cbam_lightning.runs.export_weights import export_weights
from cbam_lightning.studies.compare.arms import by_seed, require_same
from cbam_lightning.studies.compare.finished import FinishedRun
from cbam_lightning.studies.compare.run_sources import find_runs
from cbam_lightning.weights import load_checkpoint, save_checkpoint
from cbam_lightning.weights.checkpoint_registry import card_path, files_folder
from cbam_lightning.weights.entry import Entry
from experiments.shipping.model_card import model_card
from experiments.shipping.registering import make_entry, register


def ship(paths: Sequence[str], *, name: str, licence: str, command: str) -> Entry:
    """Add the median of finished runs to the checkpoints that the package ships.

    Args:
        paths: The runs' directories, or a folder of them.
        name: Name ``<network>_<attention>.<dataset>``; a checkpoint of this name is replaced.
        licence: Licence of the weights, as an SPDX identifier.
        command: The command that trained the runs; the seed is added.

    Returns:
        The entry that was added to the table.

    Raises:
        UsageError: A run is not finished, the runs differ in more than their seeds, or the exported network
            has another accuracy than the run.
        OSError: A file cannot be written.
    """
    runs = _finished(paths)
    chosen = sorted(runs, key=lambda run: (_top1(run), run.seed))[(len(runs) - 1) // 2]
    with TemporaryDirectory() as folder:
        draft = Path(folder, "draft.safetensors")
        export_weights(chosen.source, str(draft))
        measured = _measure(draft, chosen)
        seeds = {str(run.seed): round(_top1(run), 6) for run in sorted(runs, key=lambda run: run.seed)}
        command = f"{command} --seed_everything {chosen.seed}"
        entry = make_entry(draft, licence=licence, command=command, name=name, seeds=seeds)
        entry = replace(entry, file=f"{name}.safetensors")
        header, content = load_checkpoint(draft).header, draft.read_bytes()
    config = yaml.safe_load(RunDirectory(Path(chosen.source)).config.read_text())
    card = model_card(entry, header, config, measured["test/top1"], measured["embedded/top1"])
    # the table last: it names nothing that is not there
    for path, data in ((files_folder() / f"{name}.safetensors", content), (card_path(name), card.encode())):
        with atomic_write(path) as file:
            file.write(data)
    register(entry)
    return entry


def _finished(paths: Sequence[str]) -> list[FinishedRun]:
    runs, left_out = find_runs(paths)
    if left_out:
        raise UsageError(f"{left_out[0]}; let it finish, or omit it.")
    by_seed(runs)
    require_same(runs)
    return runs


def _top1(run: FinishedRun) -> float:
    if "test/top1" not in run.metrics:
        raise UsageError(f"{run.source} has no test/top1, which determines the median.")
    return run.metrics["test/top1"]


def _measure(file: Path, run: FinishedRun) -> dict[str, Measured]:
    """Measure an exported network and write the accuracies to its header."""
    checkpoint = load_checkpoint(file)
    network = rebuild(checkpoint)
    measured = {name: measure(network, checkpoint.header, source, name) for name, source in SOURCES.items()}
    same, text = compare(_top1(run), measured["test/top1"])
    if not same:
        raise UsageError(
            f"test/top1 of {run.source} {text}. Was its best checkpoint tested, on all images of the full "
            "Fashion-MNIST?"
        )
    figures = {name: result.top1 for name, result in measured.items()}
    header = replace(checkpoint.header, metrics={**checkpoint.header.metrics, **figures})
    save_checkpoint(file, checkpoint.state_dict, header)
    return measured


def main(args: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        args: Default: those of the process.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m experiments.shipping.ship")
    parser.description = "Add the network of finished runs to the checkpoints that this package ships."
    parser.add_argument(
        "runs", nargs="+", metavar="RUN_DIR", help="of one configuration, with different seeds"
    )
    parser.add_argument("--name", required=True, help="<network>_<attention>.<dataset>")
    parser.add_argument("--licence", required=True, help="licence of the weights, such as MIT")
    parser.add_argument("--command", required=True, help="command that trained the runs, without the seed")
    given = parser.parse_args(args)
    try:
        entry = ship(given.runs, name=given.name, licence=given.licence, command=given.command)
    except (UsageError, OSError) as error:
        print(f"shipping: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    print(f"{entry.describe()}\nWritten: {files_folder() / str(entry.file)} and {card_path(entry.name)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
