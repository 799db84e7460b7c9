import errno
import os

import pytest
import torch

from cbam_lightning.callbacks.resume.checkpointing import AtomicCheckpointIO, SaveOptions
from cbam_lightning.errors import UsageError


def test_a_checkpoint_is_read_back(tmp_path):
    path = tmp_path / "deep" / "a.ckpt"
    AtomicCheckpointIO().save_checkpoint({"x": torch.arange(3)}, path)
    assert AtomicCheckpointIO().load_checkpoint(path, weights_only=True)["x"].tolist() == [0, 1, 2]


def test_a_failed_write_leaves_the_old_checkpoint_and_ends_nothing(tmp_path, monkeypatch):
    path, old = tmp_path / "a.ckpt", tmp_path / "old.ckpt"
    checkpoints = AtomicCheckpointIO()
    for target in (path, old):
        checkpoints.save_checkpoint({"x": 1}, target)
    before = path.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.warns(UserWarning, match=r"a\.ckpt could not be written \(No space left on device\)"):
            checkpoints.save_checkpoint({"x": 2}, path)
    assert checkpoints.failure.errno == errno.ENOSPC
    checkpoints.remove_checkpoint(old)  # what the new one would have replaced
    assert path.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == [path, old]
    checkpoints.save_checkpoint({"x": 3}, path)
    assert checkpoints.failure is None
    checkpoints.remove_checkpoint(old)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "options", [{"every_minutes": 0}, {"every_minutes": float("nan")}, {"every_steps": -1}]
)
def test_bad_options_are_refused(options):
    with pytest.raises(UsageError, match=r"--save\.every_\w+ is .*; allowed: more than 0, or null"):
        SaveOptions(**options)
