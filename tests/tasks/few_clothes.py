"""A few of the embedded pictures of Fashion-MNIST, where the full data set would be."""

import gzip
import math

import numpy as np

from cbam_lightning.data.fashion_mnist import EMBEDDED_DIR, FILE_STEMS

COUNT = 300


def write_few(folder):
    """Write the first ``COUNT`` training and test images as the four files of the data set."""
    folder.mkdir(exist_ok=True)
    for stem in FILE_STEMS:
        axes = (COUNT, 28, 28) if "images" in stem else (COUNT,)
        values = gzip.decompress((EMBEDDED_DIR / f"{stem}.gz").read_bytes())[4 + 4 * len(axes) :]
        start = bytes((0, 0, 8, len(axes))) + np.array(axes, ">i4").tobytes()
        (folder / stem).write_bytes(start + values[: math.prod(axes)])
