"""Where runs are found: in directories, in results files and in W&B."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from cbam_lightning.errors import UsageError
from cbam_lightning.runs.directory import RunDirectory
from cbam_lightning.studies.compare.finished import FinishedRun, read_directory, read_wandb
from cbam_lightning.studies.compare.results_file import ENDING, read_results

_WANDB_ID = r"[\w.-]+/[\w.-]+/[\w.-]+"


def find_runs(sources: Sequence[str]) -> tuple[list[FinishedRun], list[str]]:
    """Read every finished run.

    Args:
        sources: Directories of runs, directories with runs anywhere below them, results files (``.jsonl``),
            and runs in W&B as ``entity/project/id``, which are read through its API.

    Returns:
        The runs, each once, and for each that is left out a line that says why.

    Raises:
        UsageError: A source is none of these, or holds no finished run.
        OSError: W&B cannot be reached.
    """
    runs: dict[str, FinishedRun] = {}
    left_out: list[str] = []
    for source in sources:
        read = list(_read(source))
        left_out += [run for run in read if isinstance(run, str)]
        finished = {run.source: run for run in read if isinstance(run, FinishedRun)}
        if not finished:
            reasons = "".join(f" {line}." for line in left_out[-3:])
            raise UsageError(
                f"{source} holds no finished run.{reasons} Give directories of runs, or a folder of them."
            )
        runs |= finished
    return list(runs.values()), list(dict.fromkeys(left_out))


def _read(source: str) -> Iterator[FinishedRun | str]:
    path = Path(source)
    if path.is_dir():
        for config in sorted(path.rglob("config.yaml")):
            # W&B keeps a file of the same name in its own folder inside a run's
            if "wandb" not in config.relative_to(path).parts:
                yield read_directory(RunDirectory(config.parent))
    elif path.suffix == ENDING and path.is_file():
        yield from read_results(path)
    elif re.fullmatch(_WANDB_ID, source) and not path.exists():
        yield read_wandb(source)
    else:
        raise UsageError(
            f"{source} is neither a directory nor a results file (.jsonl) nor a run in W&B, which would be "
            "entity/project/id."
        )
