"""What names of metrics mean."""

import pytest

from cbam_lightning.metrics.meaning import better_direction, is_share


@pytest.mark.parametrize(
    ("names", "share", "better"),
    [
        (("test/top1", "test/top5", "top_10", "test/map", "test/map_50", "val/map_75"), True, "higher"),
        (("test/acc", "test/accuracy", "test/BinaryAccuracy", "accuracy"), True, "higher"),
        (("test/loss", "val/FocalLoss", "test/box_loss"), False, "lower"),
        (("test/Brier", "test/mapping", "test/top", "test/lossless", "", "loss/seconds"), False, ""),
    ],
)
def test_shares_and_losses_are_known_and_nothing_else_is_guessed(names, share, better):
    for name in names:
        assert (is_share(name), better_direction(name)) == (share, better), name
