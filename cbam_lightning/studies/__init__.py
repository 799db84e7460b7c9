"""A study: the same training for several arms and seeds, as ordinary runs."""

from cbam_lightning.studies.plan import Study, StudyRun, read_study
from cbam_lightning.studies.runner import run_study

__all__ = ["Study", "StudyRun", "read_study", "run_study"]
