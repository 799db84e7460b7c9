"""Counting the votes of a survey: whose maps people prefer, and whether that is more than chance."""

from cbam_lightning.explain.tally.counting import Rejected, Row, Tally, tally
from cbam_lightning.explain.tally.rendering import as_csv, draw, markdown, save, terminal

__all__ = ["Rejected", "Row", "Tally", "as_csv", "draw", "markdown", "save", "tally", "terminal"]
