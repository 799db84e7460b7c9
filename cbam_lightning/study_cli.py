"""``cbam-lightning study`` and ``compare``: many runs, and what they say together."""

from __future__ import annotations

import re
from pathlib import Path

from cbam_lightning.commands import Parser
from cbam_lightning.errors import RunStopped, UsageError

_DIVERGED = 3


def study(args: list[str]) -> None:
    """Make the runs of a study that are not finished."""
    text = (
        "Run a grid of arms and seeds as ordinary `fit` runs. What is finished is skipped, and what was cut "
        "off goes on: the same command, typed again, always does the rest."
    )
    parser = Parser(prog="cbam-lightning study", description=text)
    parser.add_argument("file", metavar="FILE.yaml", help="config, arms, seeds; also settings, root, threads")
    parser.add_argument(
        "--slice",
        default="1/1",
        metavar="K/N",
        help="only every N-th run from the K-th, for N machines or the tasks of a job array",
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time on this machine; default: 1")
    parser.add_argument("--list", action="store_true", help="print the runs and their commands, and end")
    given = parser.parse_args(args)
    if given.jobs < 1:
        message = f"--jobs is {given.jobs}; allowed: 1 or more."
        raise UsageError(message)
    from cbam_lightning.runs.study import read_study, run_study

    plan = read_study(given.file)
    runs = plan.part(*_slice(given.slice))
    if given.list:
        for run in runs:
            state = "finished" if run.metrics() else "started" if run.directory.config.is_file() else "open"
            print(f"{state:<9} {run.command}")
        return
    diverged = run_study(runs, given.jobs, plan.threads)
    print(f"Compare them: cbam-lightning compare {Path(plan.root, plan.name)} --by model.attention")
    if diverged:
        names = "; ".join(run.name for run in diverged)
        message = f"the loss became no number in {len(diverged)} of {len(runs)} runs: {names}."
        raise RunStopped(message, _DIVERGED)


def _slice(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match:
        message = f"--slice is {text!r}; give which part of how many, such as 1/8."
        raise UsageError(message)
    return int(match[1]), int(match[2])
