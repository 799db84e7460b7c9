import gzip
import struct

import numpy as np
import pytest

from cbam_lightning.data.fashion_mnist import DEBIAN_DIR, EMBEDDED_DIR, FILE_STEMS
from cbam_lightning.data.idx import read_idx
from experiments.shipping.fashion_mnist_subset import write_idx, write_subset

needs_the_full_set = pytest.mark.skipif(
    not DEBIAN_DIR.is_dir(), reason="needs the full data set: apt-get install dataset-fashion-mnist"
)


def test_files_are_written_reproducibly(tmp_path):
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    for name in ("a.gz", "b.gz"):
        write_idx(tmp_path / name, values)
    content = bytes([0, 0, 8, 3]) + struct.pack(">3I", 2, 3, 4) + bytes(range(24))
    assert gzip.decompress((tmp_path / "a.gz").read_bytes()) == content
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


@needs_the_full_set
def test_the_script_makes_the_embedded_files(tmp_path):
    write_subset(DEBIAN_DIR, tmp_path)
    for stem in FILE_STEMS:
        made, shipped = (gzip.decompress((d / f"{stem}.gz").read_bytes()) for d in (tmp_path, EMBEDDED_DIR))
        assert made == shipped


@needs_the_full_set
@pytest.mark.parametrize("part", ["train", "t10k"])
def test_embedded_images_are_original_images_with_their_labels(part):
    def pairs(folder):
        images = read_idx(folder / f"{part}-images-idx3-ubyte.gz", num_axes=3)
        labels = read_idx(folder / f"{part}-labels-idx1-ubyte.gz", num_axes=1)
        return [(image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)]

    embedded, original = pairs(EMBEDDED_DIR), set(pairs(DEBIAN_DIR))
    assert set(embedded) <= original
    assert (
        np.unique([label for _, label in embedded], return_counts=True)[1].tolist()
        == [len(embedded) // 10] * 10
    )
