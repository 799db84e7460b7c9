"""The file of a study, and the runs that it describes."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from cbam_lightning.errors import UsageError, unknown_name
from cbam_lightning.runs.directory import RunDirectory, experiment_name
from cbam_lightning.runs.names import fault_of_folder
from cbam_lightning.runs.run_files import read_config, read_results, tested_metrics, unfinished_state
from cbam_lightning.runs.settings import flatten, is_below, same_value
from cbam_lightning.studies.words import as_typed, read_texts, read_words

_SEED = "{seed}"  # in a setting: the seed of the run
_SET = ("seed_everything", "run.root", "run.experiment", "run.name")


@dataclass(frozen=True)
class StudyRun:
    """One run of a study.

    Attributes:
        arm: Name of the arm.
        seed: Value of ``seed_everything``.
        options: Options of ``fit``.
        directory: Where the run is, or will be.
        expected: Settings from its configuration file and its options, by dotted name.
    """

    arm: str
    seed: int
    options: tuple[str, ...]
    directory: RunDirectory
    expected: Mapping[str, Any]

    @property
    def command(self) -> str:
        """The command that makes only this run."""
        return shlex.join(["cbam-lightning", "fit", *self.options])

    @property
    def name(self) -> str:
        """Arm and seed, to print."""
        return f"{self.arm}, seed {self.seed}"

    @property
    def state(self) -> str:
        """``open``, ``finished``, or how the run stands, as ``unfinished_state`` says it."""
        if self.metrics():
            return "finished"
        known = self.directory.config.is_file() or self.directory.ending
        return unfinished_state(self.directory) if known else "open"

    @property
    def diverged(self) -> bool:
        """Whether its loss became NaN or Inf, as it would again."""
        return self.directory.divergence.is_file() and self.state == "diverged"

    def metrics(self) -> dict[str, float]:
        """Return the results of the run's test; nothing if it is not finished.

        Raises:
            UsageError: The directory holds a run with other settings, or a damaged one.
        """
        if self.directory.config.is_file():
            self._check_settings()
        return tested_metrics(read_results(self.directory))

    def _check_settings(self) -> None:
        resolved = flatten(read_config(self.directory))
        for key, value in self.expected.items():
            if key in resolved and not same_value(value, resolved[key]):
                raise UsageError(
                    f"{self.directory.path} was made with {key} = {resolved[key]!r}, but the study says "
                    f"{value!r}. Move the folder away, or rename the study."
                )


@dataclass(frozen=True)
class Study:
    """A grid of runs: every arm with every seed.

    Attributes:
        path: The study's file.
        config: Configuration file of all runs; in the study's file relative to that file.
        arms: Options of ``fit`` for each arm, by dotted name.
        seeds: Values of ``seed_everything``, the same for every arm, so that arms can be paired.
        settings: Options of ``fit`` for all arms. A value ``"{seed}"`` becomes the seed of the run.
        root: Folder of all runs, as ``run.root``.
        results: Published runs, which ``compare`` reads where there are no runs; in the study's file
            relative to that file.
        threads: CPU threads of a run; ``None``: torch's default. Results depend on it by rounding.
    """

    path: Path
    config: Path
    arms: Mapping[str, Mapping[str, Any]]
    seeds: tuple[int, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    root: str = "runs"
    results: Path | None = None
    threads: int | None = None

    @property
    def name(self) -> str:
        """Folder of the study below ``root``."""
        return experiment_name([self.path])

    @property
    def folder(self) -> Path:
        """Folder of all runs of the study."""
        return Path(self.root).expanduser() / self.name

    @property
    def compared(self) -> list[str]:
        """Names of the settings in which arms may differ."""
        return list(dict.fromkeys(name for options in self.arms.values() for name in options))

    @cached_property
    def runs(self) -> tuple[StudyRun, ...]:
        """Every run, all arms of a seed before the next seed, so that finished runs can be paired."""
        base = flatten(_read_yaml(self.config))
        return tuple(self._run(arm, seed, base) for seed in self.seeds for arm in self.arms)

    def _run(self, arm: str, seed: int, base: Mapping[str, Any]) -> StudyRun:
        settings = {**self.settings, **self.arms[arm]}
        values = {key: seed if value == _SEED else value for key, value in settings.items()}
        filing = {"run.root": self.root, "run.experiment": f"{self.name}/{arm}", "run.name": f"seed_{seed}"}
        options = ["--config", str(self.config)]
        for key, value in {**values, "seed_everything": seed, **filing}.items():
            options += [f"--{key}", value if isinstance(value, str) else json.dumps(value)]
        directory = RunDirectory(self.folder / arm / f"seed_{seed}")
        return StudyRun(arm, seed, tuple(options), directory, {**base, **flatten(values)})

    def part(self, number: int, of: int) -> tuple[StudyRun, ...]:
        """Return the runs for one of several machines, or for a task of a job array.

        Args:
            number: Which part, from 1 to ``of``.
            of: Number of parts.

        Raises:
            UsageError: There is no such part.
        """
        if not 1 <= number <= of:
            raise UsageError(f"there is no part {number} of {of}; the first is 1/{of}, the last {of}/{of}.")
        return self.runs[number - 1 :: of]


def read_study(path: str | Path) -> Study:
    """Read a study from its YAML file, whose keys are the attributes of ``Study`` except ``path``.

    Raises:
        UsageError: The file is not a study, or its configuration file does not exist.
    """
    path = Path(path)
    values, texts = _read_yaml(path), read_texts(path.read_text(encoding="utf-8"))
    known = [f for f in fields(Study) if f.name != "path"]
    for key in values:
        if key not in {f.name for f in known}:
            raise unknown_name(kind=f"key in {path}", given=str(key), allowed=[f.name for f in known])
    required = [f.name for f in known if f.default is MISSING and f.default_factory is MISSING]
    if missing := [name for name in required if not values.get(name)]:
        raise UsageError(f"{path} has no {' and no '.join(missing)}; a study needs config, arms and seeds.")
    values = {"root": Study.root} | {name: value for name, value in values.items() if value is not None}
    _check(values, path)
    files = {name: path.parent / values[name] for name in ("config", "results") if values.get(name)}
    values["settings"] = as_typed(values.get("settings") or {}, texts.get("settings"))
    arms = values["arms"].items()
    values["arms"] = {arm: as_typed(options or {}, texts["arms"][arm]) for arm, options in arms}
    return Study(path, **{**values, **files, "seeds": tuple(values["seeds"])})


def _check(values: Mapping[str, Any], path: Path) -> None:
    arms, seeds, threads, results = (
        values["arms"],
        values["seeds"],
        values.get("threads"),
        values.get("results"),
    )
    groups = [values.get("settings"), *(arms.values() if isinstance(arms, dict) else [])]
    options = [group or {} for group in groups if group is None or isinstance(group, dict)]
    rules = {
        "config, the path of a configuration file": isinstance(values["config"], str),
        "arms, a name for each with its options": isinstance(arms, dict),
        "options as `name: value`": len(options) == len(groups),
        f"no option {' or '.join(_SET)}, which the study sets itself": not any(
            is_below(name, _SET) for group in options for name in flatten(group)
        ),
        "seeds, a list of different whole numbers from 0": isinstance(seeds, list)
        and all(type(seed) is int and seed >= 0 for seed in seeds)
        and len({*seeds}) == len(seeds),
        "root, a folder": isinstance(values["root"], str),
        "results, the path of a results file": results is None or isinstance(results, str),
        "threads, 1 or more": threads is None or (type(threads) is int and threads >= 1),
    }
    if wrong := [rule for rule, holds in rules.items() if not holds]:
        raise UsageError(f"{path} should have {wrong[0]}.")
    for name in [*Path(experiment_name([path])).parts, *arms]:
        if fault := fault_of_folder(name):
            what = "cannot be the name of a study or an arm"
            raise UsageError(f"{path}: {name!r:.80} {what}: {fault}; rename it.")


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = read_words(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise UsageError(f"{path} should hold keys with values.")
    return values
