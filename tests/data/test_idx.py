import gzip
import struct

import numpy as np
import pytest

from cbam_lightning.data.idx import read_idx
from cbam_lightning.errors import UsageError

VALUES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
PLAIN = bytes([0, 0, 8, 3]) + struct.pack(">3I", 2, 3, 4) + bytes(range(24))


def test_reads_plain_and_compressed_files(tmp_path):
    (tmp_path / "a").write_bytes(PLAIN)
    (tmp_path / "b.gz").write_bytes(gzip.compress(PLAIN))
    for name in ("a", "b.gz"):
        array = read_idx(tmp_path / name, num_axes=3)
        assert array.dtype == np.uint8
        assert np.array_equal(array, VALUES)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\x93NUMPY", r"starts with 0x934e554d, not with the magic 0x00000803"),
        (b"", "starts with 0x, not"),
        (bytes([0, 0, 8, 1]) + PLAIN[4:], "starts with 0x00000801"),
        (PLAIN[:10], "ends within its header of 16 bytes"),
        (PLAIN[:-5], "header announces 2 x 3 x 4 bytes, but 19 follow"),
        (PLAIN + b"x", "but more follow"),
        (
            PLAIN[:4] + b"\xff" * 12,
            "announces 4294967295 x 4294967295 x 4294967295 bytes, more than 1073741824",
        ),
        (PLAIN[:4] + bytes(4) + b"\xff" * 8, "announces 0 x 4294967295 x 4294967295 bytes, more than"),
    ],
)
@pytest.mark.parametrize("name", ["images", "images.gz"])
def test_names_the_file_and_what_is_wrong(tmp_path, content, problem, name):
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(UsageError, match=problem) as caught:
        read_idx(path, num_axes=3)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-12], lambda b: b"PK" + b[2:], lambda b: b[:10] + b"\xff" * 30]
)
def test_damaged_gzip_is_named(tmp_path, damage):
    path = tmp_path / "images.gz"
    path.write_bytes(damage(gzip.compress(PLAIN)))
    with pytest.raises(UsageError, match=r"images\.gz is not a usable idx file: its gzip stream is damaged"):
        read_idx(path, num_axes=3)


def test_a_missing_file_is_a_machine_failure(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_idx(tmp_path / "none", num_axes=3)
