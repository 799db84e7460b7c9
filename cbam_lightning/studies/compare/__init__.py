"""Comparing finished runs: what differs, by how much, and whether that is more than noise."""

from cbam_lightning.studies.compare.arms import Arm, by_seed, choose_arms, group_arms, require_same
from cbam_lightning.studies.compare.comparison import Comparison, Row, compare
from cbam_lightning.studies.compare.costs import Costs, measure_costs
from cbam_lightning.studies.compare.finished import FinishedRun, find_runs
from cbam_lightning.studies.compare.study_arms import study_arms

__all__ = [
    "Arm",
    "Comparison",
    "Costs",
    "FinishedRun",
    "Row",
    "by_seed",
    "choose_arms",
    "compare",
    "find_runs",
    "group_arms",
    "measure_costs",
    "require_same",
    "study_arms",
]
