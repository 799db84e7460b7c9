"""``cbam-lightning study`` and ``compare``: make many runs, and compare them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from cbam_lightning.checks import check_positive
from cbam_lightning.cli.command_line import Folder
from cbam_lightning.errors import RunStopped, UsageError

if TYPE_CHECKING:
    from cbam_lightning.studies import Study
    from cbam_lightning.studies.compare.arms import Arm
    from cbam_lightning.studies.compare.costs import Costs


def study(
    file: Annotated[str, "FILE.yaml"],
    *,
    slice: Annotated[str, "K/N"] = "1/1",  # noqa: A002 - the name of the option
    jobs: int = 1,
    imports: Annotated[str, "MODULE"] | None = None,
    list: bool = False,  # noqa: A002 - the name of the option
) -> None:
    """Run a study: one `fit` for each arm and seed that is not finished.

    Finished runs are skipped and interrupted ones are resumed, so the same command always does the rest.

    Args:
        file: Contains config, arms and seeds, and optionally settings, root, results and threads.
        slice: Run only every N-th run starting at the K-th, for N machines or a job array.
        jobs: Number of runs at a time on this machine.
        imports: Modules of your own for every run.
        list: Only print the runs, how each stands, and their commands.
    """
    check_positive("--jobs", jobs)
    from cbam_lightning.callbacks.resume.divergence import EXIT_DIVERGED
    from cbam_lightning.studies import read_study, run_study

    plan = read_study(file)
    plan = replace(plan, settings={**plan.settings, "imports": json.loads(imports)}) if imports else plan
    runs = plan.part(*_slice(slice))
    if list:
        for run in runs:
            print(f"{run.state:<9} {run.command}")
        return
    diverged = run_study(runs, jobs, plan.threads)
    print(f"Compare them: cbam-lightning compare {shlex.quote(file)}")
    if diverged:
        names = "; ".join(run.name for run in diverged)
        message = f"the loss became NaN or Inf in {len(diverged)} of {len(runs)} runs: {names}."
        raise RunStopped(message, EXIT_DIVERGED)


def _slice(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match:
        raise UsageError(f"--slice is {text!r}; give a part and the number of parts, such as 1/8.")
    return int(match[1]), int(match[2])


@dataclass(frozen=True)
class RunSelection:
    """Options of ``compare`` that select and group the runs.

    Attributes:
        runs: A study file; or directories of runs, results files (.jsonl), and W&B runs as entity/project/id.
        by: Settings that distinguish the arms. Default: the arms of the study, or model.attention.
        baseline: Arm to compare with. Default: the first of the study, or none.
        arms: Compare only these arms with the baseline.
        ignore: Settings that may differ within an arm.
        save: Write the runs to a results file, to publish them.
    """

    runs: Sequence[Annotated[str, "RUN"]]
    _: KW_ONLY
    by: Sequence[Annotated[str, "SETTING"]] | None = None
    baseline: Annotated[str, "ARM"] | None = None
    arms: Sequence[Annotated[str, "ARM"]] | None = None
    ignore: Sequence[Annotated[str, "SETTING"]] = ()
    save: Annotated[str, "FILE.jsonl"] | None = None


@dataclass(frozen=True)
class CostSelection:
    """Options of ``compare`` for the costs of the arms.

    Attributes:
        no_costs: Show no training step, memory and size.
        costs: Show these costs, which an earlier `--out` has measured.
        batch_size: Batch size of the measured training step.
        repeats: Measurements of the training step.
        threads: CPU threads for the training step. Default: all.
        device: Devices for the training step, such as cpu or cuda.
    """

    _: KW_ONLY
    no_costs: bool = False
    costs: Annotated[str, "FILE.json"] | None = None
    batch_size: int = 32
    repeats: int = 7
    threads: int | None = None
    device: Sequence[str] = ("cpu",)


def compare(
    selection: RunSelection,
    shown: CostSelection,
    *,
    metric: str | None = None,
    out: Folder | None = None,
) -> None:
    """Compare finished runs: differences, intervals and costs.

    Prints mean and spread of each arm, and its difference from a baseline, paired by seed, with intervals
    that hold simultaneously for all comparisons. Runs that differ in anything but the given settings and the
    seed are refused.

    Args:
        selection: The runs and arms.
        shown: Which costs, and how they are measured.
        metric: Metric to compare, such as test/loss. Default: test/top1, or test/map for detectors.
        out: Write comparison.md, .csv and .png, and the costs as costs.json and costs.png, to this folder.
    """
    from cbam_lightning.files import check_unwritten
    from cbam_lightning.studies.compare.comparison import compare
    from cbam_lightning.studies.compare.comparison_files import paths, save
    from cbam_lightning.studies.compare.comparison_table import comparison_table

    _check(shown)
    if out:
        check_unwritten(*paths(out))
    arms, baseline, left_out = _arms(selection)
    comparison = compare(arms, baseline, metric)  # a mistake shows before anything is measured
    if not shown.no_costs:
        costs, setting = _costs(shown, arms)
        comparison = replace(compare(arms, baseline, metric, costs), cost_setting=setting)
    notes = tuple(f"Left out: {line}." for line in left_out)
    comparison = replace(comparison, notes=(*comparison.notes, *notes))
    print(comparison_table(comparison).terminal())
    if out:
        print("Written: " + ", ".join(map(str, save(comparison, out))))


def _check(options: CostSelection) -> None:
    for name in ("batch_size", "repeats", "threads"):
        if (number := getattr(options, name)) is not None:
            check_positive(name, number)
    if options.costs and options.no_costs:
        raise UsageError("--costs and --no-costs exclude each other; give one of them.")
    for name in ("batch_size", "repeats", "threads", "device"):
        if options.costs and getattr(options, name) != getattr(CostSelection(), name):
            raise UsageError(
                f"--costs shows what was measured, so --{name.replace('_', '-')} has no effect; leave one of "
                "them out."
            )


def _costs(options: CostSelection, arms: Sequence[Arm]) -> tuple[dict[str, Costs], dict[str, Any]]:
    """Return the costs of arms, read or measured, and the setting of the measurement."""
    from cbam_lightning.benchmarks.machine import set_threads, this_machine
    from cbam_lightning.cli.own_code import import_own_networks
    from cbam_lightning.studies.compare.costs import described, measure_costs
    from cbam_lightning.studies.compare.costs_file import read_costs

    if options.costs:
        return read_costs(options.costs, described(arms))
    set_threads(options.threads)
    import_own_networks(run for arm in arms for run in arm.runs.values())
    costs = measure_costs(arms, options.batch_size, options.repeats, options.device)
    return costs, {"batch": options.batch_size, "repeats": options.repeats, **this_machine()}


def _arms(selection: RunSelection) -> tuple[list[Arm], str, list[str]]:
    """Return the arms, the name of the baseline, and lines on what was left out; obey ``--save``."""
    from cbam_lightning.studies import read_study
    from cbam_lightning.studies.compare.arms import choose_arms, group_arms, saved_arms
    from cbam_lightning.studies.compare.results_file import ENDING, save_results
    from cbam_lightning.studies.compare.run_sources import find_runs
    from cbam_lightning.studies.compare.study_arms import study_arms, unfinished

    first = selection.runs[0]
    is_study = len(selection.runs) == 1 and first.endswith((".yaml", ".yml"))
    plan = read_study(first) if is_study else None
    runs, left_out = find_runs([_runs_of(plan)] if plan else selection.runs)
    published = len(selection.runs) == 1 and first.endswith(ENDING)
    if selection.by or not (plan or published):
        arms = group_arms(runs, selection.by or ["model.attention"], selection.ignore)
    else:
        arms = study_arms(plan, runs, selection.ignore) if plan else saved_arms(runs)
    if selection.save:
        save_results(selection.save, arms, runs, left_out)
    if plan:
        left_out += unfinished(plan, runs, left_out)
    baseline = selection.baseline or (arms[0].label if plan or published else "none")
    if selection.arms:
        arms = choose_arms(arms, [baseline, *selection.arms])
    return arms, baseline, left_out


def _runs_of(plan: Study) -> str:
    """Return the folder with the runs of a study, or its published results."""
    if plan.folder.is_dir():
        return str(plan.folder)
    if plan.results is None:
        command = f"`cbam-lightning study {shlex.quote(str(plan.path))}`"
        raise UsageError(f"{plan.path} has no run in {plan.folder}; make them: {command}.")
    return str(plan.results)
