"""Messages of the libraries that the command does not show."""

from __future__ import annotations

import logging
import warnings

from jsonargparse._deprecated import JsonargparseDeprecationWarning

# About deliberate choices of ours.
_SILENCED = (
    ".*args parameter is intended to run from within Python.*",
    ".*Experiment logs directory.*exists and is not empty.*",  # config.yaml is there before metrics.csv
    ".*Checkpoint directory .* exists and is not empty.*",  # of a run that is resumed
    ".*does not have many workers.*",  # images in memory are cropped in the main process, a batch at a time
    ".*The dirpath has changed from.*",  # when the checkpoint of another run is evaluated
    ".*your dataloader is not resumable.*",  # ExactResume reads again what was trained on
    ".*add the following callbacks: .*'Survival'.*",  # ExactResume, which evaluation does not need
    ".*LeafSpec.*is deprecated.*",
)


def silence() -> None:
    """Silence advertisements, and warnings about deliberate choices."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(_is_worth_telling)
    for text in _SILENCED:
        warnings.filterwarnings("ignore", text)
    # of what Lightning calls; -W error would end the command there
    warnings.filterwarnings("ignore", category=JsonargparseDeprecationWarning)


def _is_worth_telling(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    return "Tip:" not in text and "TPU" not in text
