"""A survey: the page that asks whose map is best, the votes that come back, and their tally."""

from cbam_lightning.explain.survey.tally import RejectedFile, Tally, VoteShare, count_votes
from cbam_lightning.explain.survey.tally_tables import draw, markdown, save, terminal

__all__ = ["RejectedFile", "Tally", "VoteShare", "count_votes", "draw", "markdown", "save", "terminal"]
