"""``cbam-lightning study`` and ``compare``: many runs, and what they say together."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from cbam_lightning.cli.command_line import Parser
from cbam_lightning.errors import RunStopped, UsageError

if TYPE_CHECKING:
    from cbam_lightning.studies import Study
    from cbam_lightning.studies.compare import Arm, FinishedRun


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
    parser.add_argument("--imports", metavar="MODULE", type=json.loads, help="of yours, for every run")
    parser.add_argument("--list", action="store_true", help="print the runs and their commands, and end")
    given = parser.parse_args(args)
    if given.jobs < 1:
        message = f"--jobs is {given.jobs}; allowed: 1 or more."
        raise UsageError(message)
    from cbam_lightning.callbacks.resume.divergence import EXIT_DIVERGED
    from cbam_lightning.studies import read_study, run_study

    plan = read_study(given.file)
    plan = replace(plan, settings={**plan.settings, "imports": given.imports}) if given.imports else plan
    runs = plan.part(*_slice(given.slice))
    if given.list:
        for run in runs:
            state = "finished" if run.metrics() else "started" if run.directory.config.is_file() else "open"
            print(f"{state:<9} {run.command}")
        return
    diverged = run_study(runs, given.jobs, plan.threads)
    print(f"Compare them: cbam-lightning compare {given.file}")
    if diverged:
        names = "; ".join(run.name for run in diverged)
        message = f"the loss became no number in {len(diverged)} of {len(runs)} runs: {names}."
        raise RunStopped(message, EXIT_DIVERGED)


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
        "runs",
        nargs="+",
        metavar="RUN",
        help="a study's file; or directories, also with runs below, and W&B runs as entity/project/id",
    )
    parser.add_argument(
        "--by", nargs="+", metavar="SETTING", help="default: the arms of the study, or model.attention"
    )
    parser.add_argument("--baseline", metavar="ARM", help="default: the first of the study, or none")
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="compare only these with the baseline")
    parser.add_argument("--metric", help="default: test/top1, of detectors test/map")
    parser.add_argument("--ignore", nargs="+", default=[], metavar="SETTING", help="may differ as well")
    parser.add_argument("--out", metavar="DIR", help="write comparison.md, .csv and .png there")
    parser.add_argument("--no-costs", action="store_true", help="measure no step, memory and size")
    parser.add_argument("--batch-size", type=int, default=32, help="of the measured step; default: 32")
    parser.add_argument("--repeats", type=int, default=7, help="of the measured step; default: 7")
    parser.add_argument("--threads", type=int, help="CPU threads of the measured step")
    parser.add_argument("--device", default="cpu", help="of the measured step; default: cpu")
    _compare(parser.parse_args(args))


def _compare(given: argparse.Namespace) -> None:
    from cbam_lightning.benchmarks.machine import set_threads, this_machine
    from cbam_lightning.checks import check_positive
    from cbam_lightning.cli.own_code import import_own_networks
    from cbam_lightning.studies.compare import compare, measure_costs, rendering

    for option in ("batch_size", "repeats"):
        check_positive(option, getattr(given, option))
    if given.out:
        rendering.check_folder(given.out)
    set_threads(given.threads)
    arms, baseline, left_out = _arms(given)
    compare(arms, baseline, given.metric)  # a mistake shows before anything is measured
    costs, setting = {}, {}
    if not given.no_costs:
        import_own_networks(run for arm in arms for run in arm.runs.values())
        costs = measure_costs(arms, given.batch_size, given.repeats, given.device)
        setting = {"batch": given.batch_size, "repeats": given.repeats, **this_machine()}
    comparison = compare(arms, baseline, given.metric, costs)
    comparison = replace(comparison, cost_setting=setting, notes=tuple(f"Left out: {w}." for w in left_out))
    print(rendering.terminal(comparison))
    if given.out:
        print("Written: " + ", ".join(map(str, rendering.save(comparison, given.out))))


def _has_run(arm: str, study: Study, runs: Sequence[FinishedRun]) -> bool:
    folders = {str(run.directory.path) for run in study.runs if run.arm == arm}
    return any(run.source in folders for run in runs)


def _arms(given: argparse.Namespace) -> tuple[list[Arm], str, list[str]]:
    """Return the arms, which of them is the baseline, and what was left out."""
    from cbam_lightning.studies import read_study
    from cbam_lightning.studies.compare import choose_arms, find_runs, group_arms, study_arms

    first = given.runs[0]
    if len(given.runs) == 1 and first.endswith((".yaml", ".yml")):
        study = read_study(first)
        if not study.folder.is_dir():
            message = f"{first} has no run in {study.folder}; make them: `cbam-lightning study {first}`."
            raise UsageError(message)
        runs, left_out = find_runs([str(study.folder)])
        arms = group_arms(runs, given.by, given.ignore) if given.by else study_arms(study, runs, given.ignore)
        left_out += [f"{arm}: it has no finished run" for arm in study.arms if not _has_run(arm, study, runs)]
        default = arms[0].label
    else:
        runs, left_out = find_runs(given.runs)
        arms, default = group_arms(runs, given.by or ["model.attention"], given.ignore), "none"
    baseline = given.baseline or default
    return choose_arms(arms, [baseline, *given.arms]) if given.arms else arms, baseline, left_out
