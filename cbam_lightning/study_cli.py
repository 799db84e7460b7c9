"""``cbam-lightning study`` and ``compare``: many runs, and what they say together."""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
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


def compare(args: list[str]) -> None:
    """Compare finished runs that differ in one setting and the seed."""
    text = (
        "Compare finished runs: mean and spread of each arm, and the difference from a baseline, paired by "
        "seed, with an interval that holds for all comparisons together. Runs that differ in anything but "
        "the named settings and the seed are refused."
    )
    parser = Parser(prog="cbam-lightning compare", description=text)
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="directories, also with runs below, or W&B's entity/project/id"
    )
    parser.add_argument(
        "--by", nargs="+", default=["model.attention"], metavar="SETTING", help="default: model.attention"
    )
    parser.add_argument("--baseline", default="none", metavar="ARM", help="default: none")
    parser.add_argument("--metric", default="test/top1", help="default: test/top1")
    parser.add_argument("--ignore", nargs="+", default=[], metavar="SETTING", help="may differ as well")
    parser.add_argument("--out", metavar="DIR", help="write comparison.md, .csv and .png there")
    parser.add_argument("--no-costs", action="store_true", help="measure no step, memory and size")
    parser.add_argument("--batch-size", type=int, default=32, help="of the measured step; default: 32")
    parser.add_argument("--repeats", type=int, default=7, help="of the measured step; default: 7")
    parser.add_argument("--threads", type=int, help="CPU threads of the measured step")
    parser.add_argument("--device", default="cpu", help="of the measured step; default: cpu")
    parser.add_argument("--imports", nargs="+", default=[], metavar="MODULE", help="that register networks")
    _compare(parser.parse_args(args))


def _compare(given: argparse.Namespace) -> None:
    from cbam_lightning.attention.gate import check_positive
    from cbam_lightning.measuring import set_threads, this_machine
    from cbam_lightning.runs.compare import compare, find_runs, group_arms, measure_costs, rendering
    from cbam_lightning.trainer_setup import import_modules

    for option in ("batch_size", "repeats"):
        check_positive(option, getattr(given, option))
    if given.out:
        rendering.check_folder(given.out)
    set_threads(given.threads)
    import_modules(given.imports)
    runs, left_out = find_runs(given.runs)
    arms = group_arms(runs, given.by, given.ignore)
    compare(arms, given.baseline, given.metric)  # a mistake shows before anything is measured
    costs, setting = {}, {}
    if not given.no_costs:
        costs = measure_costs(arms, given.batch_size, given.repeats, given.device)
        setting = {"batch": given.batch_size, "repeats": given.repeats, **this_machine()}
    comparison = compare(arms, given.baseline, given.metric, costs)
    comparison = replace(comparison, cost_setting=setting, notes=tuple(f"Left out: {w}." for w in left_out))
    print(rendering.terminal(comparison))
    if given.out:
        print("Written: " + ", ".join(map(str, rendering.save(comparison, given.out))))
