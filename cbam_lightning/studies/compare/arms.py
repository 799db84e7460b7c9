"""Finished runs sorted into arms that differ only in the compared settings."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cbam_lightning.errors import UsageError, unknown_name
from cbam_lightning.runs.settings import is_below
from cbam_lightning.studies.compare.finished import FinishedRun
from cbam_lightning.tables import join_values

_SHOWN = 4


@dataclass(frozen=True)
class Arm:
    """The runs with the same settings.

    Attributes:
        label: Name of the settings, such as ``cbam kernel_size=3``.
        runs: One for each seed.
    """

    label: str
    runs: Mapping[int, FinishedRun]

    def values(self, metric: str, seeds: Iterable[int]) -> list[float]:
        """Return a metric of the runs of these seeds, in their order."""
        return [self.runs[seed].metrics[metric] for seed in seeds]


def group_arms(
    runs: Sequence[FinishedRun], by: Sequence[str] = ("model.attention",), ignore: Sequence[str] = ()
) -> list[Arm]:
    """Sort runs into arms by the compared settings.

    A name includes all settings below it. Where ``model.attention`` is compared, arms with different
    attention may also differ in ``model.attention_options``, because options of different modules are
    unrelated. To compare arms that differ only in the options, name those. The same holds for every
    ``X_options``.

    Args:
        runs: Finished runs.
        by: Dotted names of the compared settings.
        ignore: Dotted names of settings that may differ, such as ``data.root`` for runs on two machines.

    Returns:
        The arms in the order of their first runs, with distinct labels.

    Raises:
        UsageError: Runs differ in another setting, an arm has two runs with one seed, or nothing differs.
    """
    _check_names(by, runs)
    ignored = [*ignore, *_seeds_by_another_name(runs)]
    groups = defaultdict[str, list[FinishedRun]](list)
    for run in runs:
        settings = {key: value for key, value in run.settings.items() if not is_below(key, ignored)}
        kept = replace(run, settings=settings)
        groups[repr(_chosen(kept, by))].append(kept)
    for group in groups.values():
        require_same(group)
    for one, other in itertools.combinations((group[0] for group in groups.values()), 2):
        differing = [name for name in by if _differ(one, other, name)]
        require_same((one, other), [*by, *(f"{name}_options" for name in differing)])
    if len(groups) < 2:
        chosen = ", ".join(f"{key} = {value!r}" for key, value in _chosen(kept, by).items())
        raise UsageError(f"all {len(runs)} runs have {chosen}; a comparison needs runs of two values.")
    labels = _labels([_chosen(group[0], by) for group in groups.values()])
    return [Arm(label, by_seed(group)) for label, group in zip(labels, groups.values(), strict=True)]


def saved_arms(runs: Sequence[FinishedRun]) -> list[Arm]:
    """Return the arms of a results file, as they were saved.

    Raises:
        UsageError: An arm has two runs with one seed.
    """
    groups = defaultdict[str, list[FinishedRun]](list)
    for run in runs:
        groups[run.arm].append(run)
    return [Arm(label, by_seed(group)) for label, group in groups.items()]


def require_same(runs: Sequence[FinishedRun], allowed: Sequence[str] = ()) -> None:
    """Refuse runs that differ in a setting.

    Args:
        runs: Finished runs.
        allowed: Dotted names of settings that may differ.

    Raises:
        UsageError: Says which runs differ, and in what.
    """
    first = runs[0]
    for other in runs[1:]:
        compared = {key for run in (first, other) for key in run.settings if not is_below(key, allowed)}
        differing = sorted(key for key in compared if _differ(first, other, key))
        if differing:
            listed = "; ".join(
                f"{key} is {_show(first, key)} in the one and {_show(other, key)} in the other"
                for key in differing[:_SHOWN]
            )
            more = f" and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
            raise UsageError(
                f"{first.source} and {other.source} differ in more than the compared settings and the seed: "
                f"{listed}{more}. Leave one of them out, or name the setting in --by, or in --ignore if it "
                "does not matter."
            )


def by_seed(runs: Sequence[FinishedRun]) -> dict[int, FinishedRun]:
    """Return runs with the same settings by their seeds, in ascending order.

    Raises:
        UsageError: Two of them have the same seed.
    """
    seeds: dict[int, FinishedRun] = {}
    for run in runs:
        if run.seed in seeds:
            raise UsageError(
                f"{seeds[run.seed].source} and {run.source} are two runs with the same settings and seed "
                f"{run.seed}; leave one of them out."
            )
        seeds[run.seed] = run
    return dict(sorted(seeds.items()))


def choose_arms(arms: Sequence[Arm], labels: Sequence[str]) -> list[Arm]:
    """Return the arms with these labels, in the order of the labels.

    Raises:
        UsageError: There is no such arm.
    """
    known = {arm.label: arm for arm in arms}
    for label in labels:
        if label not in known:
            raise unknown_name(kind="arm", given=label, allowed=known)
    return [known[label] for label in dict.fromkeys(labels)]


def _seeds_by_another_name(runs: Sequence[FinishedRun]) -> list[str]:
    """Return the settings that equal the seed in every run, such as ``data.split_seed`` in some studies."""
    keys = [key for key in runs[0].settings if key.endswith("_seed")]
    return [key for key in keys if all(run.settings.get(key) == run.seed for run in runs)]


def _check_names(by: Sequence[str], runs: Sequence[FinishedRun]) -> None:
    for name in by:
        if not any(is_below(key, [name]) for run in runs for key in run.settings):
            raise UsageError(
                f"no run has a setting {name}; give an option of `fit`, such as model.attention."
            )


def _chosen(run: FinishedRun, by: Sequence[str]) -> dict[str, Any]:
    return {key: run.settings[key] for name in by for key in sorted(run.settings) if is_below(key, [name])}


def _differ(one: FinishedRun, other: FinishedRun, key: str) -> bool:
    """Return whether two runs differ in a setting; NaN is not equal to itself, its text is."""
    values = one.settings.get(key), other.settings.get(key)
    return bool(values[0] != values[1]) and repr(values[0]) != repr(values[1])


def _show(run: FinishedRun, key: str) -> str:
    return repr(run.settings[key]) if key in run.settings else "not set"


def _labels(chosen: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name every arm by the settings that differ between arms; by all of them if two names would be equal."""
    keys = set().union(*chosen)
    common = {key for key in keys if all(c.get(key) == chosen[0].get(key) for c in chosen)}
    labels = [_label(values, common) for values in chosen]
    if len({*labels}) < len(labels):
        labels = [" ".join(f"{key}={value!r}" for key, value in values.items()) for values in chosen]
    return labels


def _label(values: Mapping[str, Any], common: set[str]) -> str:
    words = [
        ("" if position == 0 else f"{key.rpartition('.')[2]}=") + join_values(value)
        for position, (key, value) in enumerate(values.items())
        if key not in common
    ]
    return " ".join(words)
