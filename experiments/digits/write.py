"""Write scikit-learn's scanned digits as images, one folder per class.

    python experiments/digits/write.py

The 1,797 digits of 8 x 8 pixels (https://archive.ics.uci.edu/dataset/80, its test part) become
``datasets/digits/{train,test}/<digit>/<number>.png``: 100 of each digit for training and the other 797 for
testing, the same for everyone. Requires scikit-learn, which ``pip install -e '.[dev]'`` installs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from cbam_lightning.data.splits import shuffled_by_class

TRAIN_PER_CLASS = 100
SEED = 0


def write_digits(root: Path) -> None:
    """Write all images to a folder."""
    digits = load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)  # from integers 0 to 16
    for digit, numbers in shuffled_by_class(digits.target.tolist(), SEED).items():
        for position, number in enumerate(numbers):
            part = "train" if position < TRAIN_PER_CLASS else "test"
            folder = root / part / str(digit)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(grey[number]).save(folder / f"{number:04d}.png")


if __name__ == "__main__":
    write_digits(Path(*sys.argv[1:] or ["datasets/digits"]))
