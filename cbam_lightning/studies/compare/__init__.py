"""Comparing finished runs: what differs, by how much, and whether the difference is significant."""

from cbam_lightning.studies.compare.arms import (
    Arm,
    by_seed,
    choose_arms,
    group_arms,
    require_same,
    saved_arms,
)
from cbam_lightning.studies.compare.comparison import ArmResult, Comparison, compare
from cbam_lightning.studies.compare.comparison_table import comparison_table, draw
from cbam_lightning.studies.compare.costs import Costs, measure_costs
from cbam_lightning.studies.compare.finished import FinishedRun
from cbam_lightning.studies.compare.results_file import save_results
from cbam_lightning.studies.compare.sources import find_runs
from cbam_lightning.studies.compare.study_arms import study_arms, unfinished_arms

__all__ = [
    "Arm",
    "ArmResult",
    "Comparison",
    "Costs",
    "FinishedRun",
    "by_seed",
    "choose_arms",
    "compare",
    "comparison_table",
    "draw",
    "find_runs",
    "group_arms",
    "measure_costs",
    "require_same",
    "save_results",
    "saved_arms",
    "study_arms",
    "unfinished_arms",
]
