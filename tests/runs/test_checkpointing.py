import errno
import os

import pytest
import torch

from cbam_lightning.runs.checkpointing import AtomicCheckpointIO


def test_a_checkpoint_is_read_back(tmp_path):
    path = tmp_path / "deep" / "a.ckpt"
    AtomicCheckpointIO().save_checkpoint({"x": torch.arange(3)}, path)
    assert AtomicCheckpointIO().load_checkpoint(path, weights_only=True)["x"].tolist() == [0, 1, 2]


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "a.ckpt"
    AtomicCheckpointIO().save_checkpoint({"x": 1}, path)
    before = path.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        AtomicCheckpointIO().save_checkpoint({"x": 2}, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
