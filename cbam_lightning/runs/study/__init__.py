"""A study: the same training for several arms and seeds, as ordinary runs."""

from cbam_lightning.runs.study.plan import Study, StudyRun, read_study
from cbam_lightning.runs.study.runner import run_study

__all__ = ["Study", "StudyRun", "read_study", "run_study"]
