"""The classes of a checkpoint and of a network are compared."""

import pytest

from cbam_lightning.weights import Header
from cbam_lightning.weights.compatibility import class_mismatch

NAMES = ("cat", "dog", "fox", "owl")


@pytest.mark.parametrize(
    ("saved", "num_classes", "names", "expected"),
    [
        (NAMES, 4, NAMES, None),
        (NAMES, 4, list(NAMES), None),
        (None, 4, NAMES, None),
        (NAMES, 4, None, None),
        (NAMES, 4, NAMES[::-1], "x has 4 classes (cat, dog, fox, …), the network has 4 (owl, fox, dog, …)"),
        (("caf\u00e9", "bar"), 4, ("cafe\u0301", "bar"), None),  # NFC and NFD
        (None, 3, None, "x has 4 classes, the network has 3"),
    ],
)
def test_class_mismatch(saved, num_classes, names, expected):
    header = Header("resnet8", "none", 4, 3, class_names=saved)
    assert class_mismatch(header, num_classes, names, "x") == expected
