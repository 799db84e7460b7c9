"""Comparing finished runs: what differs, by how much, and whether that is more than noise."""

from cbam_lightning.runs.compare.arms import Arm, group_arms
from cbam_lightning.runs.compare.comparison import Comparison, Row, compare
from cbam_lightning.runs.compare.costs import Costs, measure_costs
from cbam_lightning.runs.compare.finished import FinishedRun, find_runs

__all__ = [
    "Arm",
    "Comparison",
    "Costs",
    "FinishedRun",
    "Row",
    "compare",
    "find_runs",
    "group_arms",
    "measure_costs",
]
