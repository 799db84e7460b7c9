"""Counting the votes of a survey: whose maps people prefer, and whether that is more than chance."""

from cbam_lightning.explain.survey.tally import Rejected, Row, Tally, tally
from cbam_lightning.explain.survey.tally_tables import draw, markdown, save, terminal

__all__ = ["Rejected", "Row", "Tally", "draw", "markdown", "save", "tally", "terminal"]
