"""Measured costs in a file, which later comparisons show without measuring again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cbam_lightning.errors import UsageError, unknown_name
from cbam_lightning.files import atomic_write, check_unwritten
from cbam_lightning.studies.compare.costs import Costs


def save_costs(path: str | Path, costs: Mapping[str, Costs], setting: Mapping[str, Any]) -> None:
    """Write costs as JSON.

    Args:
        path: A new file.
        costs: Of each arm, by its label.
        setting: How and where they were measured.

    Raises:
        UsageError: The file already exists.
        OSError: It cannot be written.
    """
    check_unwritten(Path(path))
    content = {"setting": setting, "arms": {label: asdict(cost) for label, cost in costs.items()}}
    with atomic_write(path) as file:
        file.write(f"{json.dumps(content, indent=1)}\n".encode())


def read_costs(
    path: str | Path, networks: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, Costs], dict[str, Any]]:
    """Read what ``save_costs`` wrote.

    Args:
        path: The file.
        networks: Names and options of the network of each arm whose costs are wanted, by its label.

    Returns:
        The costs of each of the arms, by its label, and the setting.

    Raises:
        UsageError: There is no such file, it is damaged, its arms were measured on different devices, or it
            lacks one of the arms, or has the costs of another network.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        costs = {label: _costs(values) for label, values in content["arms"].items()}
        setting = {**content["setting"]}
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist; `compare --out DIR` writes DIR/costs.json.") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path} is damaged, or not written by `compare --out`: {type(error).__name__}: {error}."
        ) from None
    devices = {tuple(cost.step_ms) for cost in costs.values()}
    if len(devices) != 1 or devices == {()}:
        raise UsageError(f"{path} is damaged: it needs arms, with the step time of each on the same devices.")
    for label, network in networks.items():
        if label not in costs:
            raise unknown_name(kind=f"arm of {path}", given=label, allowed=costs)
        measured, runs = costs[label].network, json.loads(json.dumps(network))
        for name in sorted(measured.keys() | runs.keys()):
            if measured.get(name) != runs.get(name):
                raise UsageError(
                    f"{path} has the costs of {label} with {name} {measured.get(name)!r}, but its runs have "
                    f"{runs.get(name)!r}. Measure them: leave --costs out, with --out DIR."
                )
    return {label: costs[label] for label in networks}, setting


def _costs(values: Mapping[str, Any]) -> Costs:
    costs = Costs(**values)
    if not isinstance(costs.network, dict):
        raise TypeError(f"{costs.network!r} is no network")
    counts, times = (costs.params, costs.macs, costs.saved_bytes), {**costs.step_ms}
    if any(type(count) is not int or count < 0 for count in counts) or costs.saved_bytes == 0:
        raise ValueError(f"{counts} are no counts")
    if any(type(ms) not in (int, float) or not 0 < ms < math.inf for ms in times.values()):
        raise ValueError(f"{times} are no times")
    return costs
