import sys
from pathlib import Path

import pytest

from cbam_lightning.data.packed import fetching
from cbam_lightning.data.packed.fetching import fetch_bytes, fetch_file, fetch_range, litdata_module
from cbam_lightning.errors import UsageError


def test_a_file_of_a_bucket_is_fetched_whole_or_in_part(bucket, tmp_path):
    bucket.files["bucket/folder/a"] = bytes(range(256)) * 100
    fetch_file("s3://bucket/folder/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == bucket.files["bucket/folder/a"]
    assert fetch_bytes("s3://bucket/folder/a") == bucket.files["bucket/folder/a"]
    assert fetch_range("s3://bucket/folder/a", 257, 260, tmp_path / "b") == bytes([1, 2, 3])
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_large_file_is_fetched_in_several_parts(bucket, tmp_path):
    content = bytes(9 << 20)  # boto3 divides from 8 MiB on
    bucket.files["bucket/large"] = content
    fetch_file("s3://bucket/large", tmp_path / "large")
    assert (tmp_path / "large").read_bytes() == content
    assert sum(given is not None for _, given in bucket.asked) > 1


def test_a_slow_disk_is_read_like_a_bucket(tmp_path):
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "a").write_bytes(b"0123456789")
    assert fetch_bytes(f"local:{tmp_path}/slow/a") == b"0123456789"
    assert fetch_range(f"local:{tmp_path}/slow/a", 2, 5, tmp_path / "scratch") == b"234"


def test_each_process_has_a_downloader_of_its_own(bucket):
    mine = fetching._downloader("s3://bucket", 1)
    assert fetching._downloader("s3://bucket", 1) is mine
    assert fetching._downloader("s3://bucket", 2) is not mine


def test_the_reason_is_one_line(bucket, tmp_path):
    with pytest.raises(
        OSError, match=r"^could not fetch s3://bucket/none: .*404.*\. Check the address"
    ) as caught:
        fetch_file("s3://bucket/none", tmp_path / "none")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "none").exists()


def test_what_a_store_needs_besides_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(
        litdata_module("streaming.downloader"), "_GOOGLE_STORAGE_AVAILABLE", NotInstalled(), raising=True
    )
    fetching._downloader.cache_clear()
    with pytest.raises(UsageError, match=r"gs://bucket.* cannot be read: .*google"):
        fetch_bytes("gs://bucket/a")


class NotInstalled:
    """Raise as LitData does if a package is missing."""

    def __bool__(self):
        return False

    def __str__(self):
        return "google-cloud-storage is not installed"


def test_without_litdata_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "litdata", None)
    fetching._downloader.cache_clear()
    with pytest.raises(UsageError, match=r"need LitData: pip install 'cbam_lightning\[litdata\]'"):
        fetch_bytes("s3://bucket/a")


def test_what_is_unfinished_has_another_name(bucket, tmp_path):
    bucket.files["bucket/a"] = bytes(1000)
    bucket.cut.add("bucket/a")
    with pytest.raises(OSError, match="could not fetch"):
        fetch_file("s3://bucket/a", tmp_path / "a")
    assert not Path(tmp_path / "a").exists()
