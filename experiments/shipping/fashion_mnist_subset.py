"""Creates the subset of Fashion-MNIST that is shipped with this package.

    python -m experiments.shipping.fashion_mnist_subset SOURCE_DIR OUT_DIR

``SOURCE_DIR`` holds the four original idx files. The same source gives the same values in every version of
Python and of the libraries; the compressed bytes may differ with the version of zlib.
"""

from __future__ import annotations

import argparse
import gzip
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cbam_lightning.data.idx import UINT8_CODE, read_idx
from cbam_lightning.data.splits import shuffled_by_class

SEED = 0
IMAGES_PER_CLASS = {"train": 1000, "t10k": 200}


def write_subset(source_dir: Path, out_dir: Path) -> None:
    """Write the same number of images of each class, in the order of the original.

    Args:
        source_dir: Folder of the original four files.
        out_dir: Folder for four files of the same names; it is created if it does not exist.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    for part, per_class in IMAGES_PER_CLASS.items():
        images_name, labels_name = f"{part}-images-idx3-ubyte.gz", f"{part}-labels-idx1-ubyte.gz"
        images = read_idx(source_dir / images_name, num_axes=3)
        labels = read_idx(source_dir / labels_name, num_axes=1)
        by_class = shuffled_by_class(labels.tolist(), SEED)
        chosen = sorted(position for positions in by_class.values() for position in positions[:per_class])
        write_idx(out_dir / images_name, images[chosen])
        write_idx(out_dir / labels_name, labels[chosen])


def write_idx(path: Path, array: NDArray[np.uint8]) -> None:
    """Write a gzip-compressed idx file; the same array always gives the same bytes.

    Args:
        path: The file to write.
        array: uint8 values.
    """
    header = struct.pack(f">HBB{array.ndim}I", 0, UINT8_CODE, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes(), compresslevel=9, mtime=0))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the subset of Fashion-MNIST that the package ships.")
    parser.add_argument("source_dir", type=Path)
    parser.add_argument("out_dir", type=Path)
    write_subset(**vars(parser.parse_args()))
