"""The options of the benchmarks are checked when they are made."""

import pytest

from cbam_lightning.benchmarks.options import (
    AttentionOptions,
    GradCAMOptions,
    LoopOptions,
    NetworkOptions,
    ReadingOptions,
)
from cbam_lightning.errors import UsageError

KINDS = (AttentionOptions, GradCAMOptions, LoopOptions, NetworkOptions, ReadingOptions)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("repeats", [0, -1])
def test_numbers_below_1_are_refused(kind, repeats):
    with pytest.raises(UsageError, match=f"repeats is {repeats}; give a whole number of at least 1"):
        kind(repeats=repeats)


@pytest.mark.parametrize("name", ["batch_size", "steps"])
def test_every_number_is_checked(name):
    with pytest.raises(UsageError, match=f"{name} is 0"):
        LoopOptions(**{name: 0})


def test_other_values_are_left_alone():
    options = NetworkOptions("resnet20", compiled=False, memory_format=["channels_last"])
    assert (options.network, options.compiled, options.threads) == ("resnet20", False, None)
    assert options.setting == {"repeats": 7, "dtype": "float32", "device": "cpu"}
