"""``cbam-lightning study`` and ``compare``: make many runs, and compare them."""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from cbam_lightning.cli.commands import Parser
from cbam_lightning.errors import RunStopped, UsageError

if TYPE_CHECKING:
    from cbam_lightning.studies import Study
    from cbam_lightning.studies.compare import Arm


def study(args: list[str]) -> None:
    """Make the runs of a study that are not finished."""
    text = (
        "Run a grid of arms and seeds as ordinary `fit` runs. Finished runs are skipped and interrupted runs "
        "resume, so the same command always does what is left."
    )
    parser = Parser(prog="cbam-lightning study", description=text)
    parser.add_argument(
        "file", metavar="FILE.yaml", help="config, arms, seeds; also settings, root, results, threads"
    )
    parser.add_argument(
        "--slice",
        default="1/1",
        metavar="K/N",
        help="only every N-th run starting at the K-th, for N machines or the tasks of a job array",
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time on this machine; default: 1")
    parser.add_argument(
        "--imports", metavar="MODULE", type=json.loads, help="your own modules, for every run"
    )
    parser.add_argument("--list", action="store_true", help="print the runs and their commands, then exit")
    options = parser.parse_args(args)
    if options.jobs < 1:
        message = f"--jobs is {options.jobs}; allowed: 1 or more."
        raise UsageError(message)
    from cbam_lightning.callbacks.resume.divergence import EXIT_DIVERGED
    from cbam_lightning.studies import read_study, run_study

    plan = read_study(options.file)
    plan = replace(plan, settings={**plan.settings, "imports": options.imports}) if options.imports else plan
    runs = plan.part(*_slice(options.slice))
    if options.list:
        for run in runs:
            state = "finished" if run.metrics() else "started" if run.directory.config.is_file() else "open"
            print(f"{state:<9} {run.command}")
        return
    diverged = run_study(runs, options.jobs, plan.threads)
    print(f"Compare them: cbam-lightning compare {options.file}")
    if diverged:
        names = "; ".join(run.name for run in diverged)
        message = f"the loss became NaN or Inf in {len(diverged)} of {len(runs)} runs: {names}."
        raise RunStopped(message, EXIT_DIVERGED)


def _slice(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match:
        message = f"--slice is {text!r}; give a part and the number of parts, such as 1/8."
        raise UsageError(message)
    return int(match[1]), int(match[2])


def compare(args: list[str]) -> None:
    """Compare finished runs that differ in one setting and the seed."""
    text = (
        "Compare finished runs: mean and spread of each arm, and the difference from a baseline, paired by "
        "seed, with intervals that hold for all comparisons together. Runs that differ in anything but the "
        "named settings and the seed are refused."
    )
    parser = Parser(prog="cbam-lightning compare", description=text)
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="a study's file; or directories of runs, also nested, results files (.jsonl), and W&B runs as "
        "entity/project/id",
    )
    parser.add_argument(
        "--by", nargs="+", metavar="SETTING", help="default: the arms of the study, or model.attention"
    )
    parser.add_argument("--baseline", metavar="ARM", help="default: the first arm of the study, or none")
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="compare only these with the baseline")
    parser.add_argument("--metric", help="default: test/top1, for detectors test/map")
    parser.add_argument("--ignore", nargs="+", default=[], metavar="SETTING", help="may differ as well")
    parser.add_argument("--out", metavar="DIR", help="write comparison.md, .csv and .png there")
    parser.add_argument(
        "--save", metavar="FILE.jsonl", help="write the runs to a results file, to publish them"
    )
    parser.add_argument("--no-costs", action="store_true", help="do not measure step time, memory and size")
    parser.add_argument("--batch-size", type=int, default=32, help="of the measured step; default: 32")
    parser.add_argument("--repeats", type=int, default=7, help="of the measured step; default: 7")
    parser.add_argument("--threads", type=int, help="CPU threads of the measured step; default: torch's")
    parser.add_argument("--device", default="cpu", help="of the measured step; default: cpu")
    _compare(parser.parse_args(args))


def _compare(options: argparse.Namespace) -> None:
    from cbam_lightning.benchmarks import set_threads, this_machine
    from cbam_lightning.checks import check_positive
    from cbam_lightning.cli.own_code import import_own_networks
    from cbam_lightning.files import check_unwritten
    from cbam_lightning.studies.compare import compare, comparison_table, draw, measure_costs
    from cbam_lightning.tables import table_paths

    for option in ("batch_size", "repeats"):
        check_positive(option, getattr(options, option))
    if options.out:
        check_unwritten(*table_paths(options.out, "comparison"))
    set_threads(options.threads)
    arms, baseline, left_out = _arms(options)
    comparison = compare(arms, baseline, options.metric)  # a mistake shows before anything is measured
    if not options.no_costs:
        import_own_networks(run for arm in arms for run in arm.runs.values())
        costs = measure_costs(arms, options.batch_size, options.repeats, options.device)
        setting = {"batch": options.batch_size, "repeats": options.repeats, **this_machine()}
        comparison = replace(compare(arms, baseline, options.metric, costs), cost_setting=setting)
    table = comparison_table(replace(comparison, notes=tuple(f"Left out: {line}." for line in left_out)))
    print(table.terminal())
    if options.out:
        print("Written: " + ", ".join(map(str, table.save(options.out, "comparison", draw(comparison)))))


def _arms(options: argparse.Namespace) -> tuple[list[Arm], str, list[str]]:
    """Return the arms, the name of the baseline, and lines on what was left out; obey ``--save``."""
    from cbam_lightning.studies import read_study
    from cbam_lightning.studies.compare import (
        choose_arms,
        find_runs,
        group_arms,
        save_results,
        saved_arms,
        study_arms,
        unfinished_arms,
    )
    from cbam_lightning.studies.compare.results_file import ENDING

    first = options.runs[0]
    is_study = len(options.runs) == 1 and first.endswith((".yaml", ".yml"))
    plan = read_study(first) if is_study else None
    runs, left_out = find_runs([_runs_of(plan)] if plan else options.runs)
    published = len(options.runs) == 1 and first.endswith(ENDING)
    if options.by or not (plan or published):
        arms = group_arms(runs, options.by or ["model.attention"], options.ignore)
    else:
        arms = study_arms(plan, runs, options.ignore) if plan else saved_arms(runs)
    if options.save:
        save_results(options.save, arms, runs, left_out)
    if plan:
        left_out += [f"{arm}: it has no finished run" for arm in unfinished_arms(plan, runs)]
    baseline = options.baseline or (arms[0].label if plan or published else "none")
    return choose_arms(arms, [baseline, *options.arms]) if options.arms else arms, baseline, left_out


def _runs_of(plan: Study) -> str:
    """Return the folder with the runs of a study, or its published results."""
    if plan.folder.is_dir():
        return str(plan.folder)
    if plan.results is None:
        message = f"{plan.path} has no run in {plan.folder}; make them: `cbam-lightning study {plan.path}`."
        raise UsageError(message)
    return str(plan.results)
