"""Streams that lose their reader."""

import contextlib
import os
import signal
import sys
from pathlib import Path

import pytest

from cbam_lightning.callbacks.resume.signals import StopSignals
from cbam_lightning.cli.closed_pipes import outlive_readers


def pipe():
    """Return the two ends of a pipe, that to read first."""
    return os.pipe()


@pytest.fixture(params=[pipe, os.openpty])
def unread(request):
    """The standard error of a process whose pipe or terminal was closed."""
    reader, writer = request.param()
    stream = os.fdopen(writer, "w", buffering=1)
    os.close(reader)
    yield stream
    with contextlib.suppress(OSError):
        stream.close()


def test_a_lost_reader_does_not_stop_the_writer(unread, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", unread)
    outlive_readers()
    outlive_readers()
    for _ in range(2):
        assert sys.stderr.write("a line\n") == 7
        sys.stderr.flush()
    assert sys.stderr.fileno() == unread.fileno()


def test_a_signal_is_noted_when_nobody_can_be_told(unread, monkeypatch):
    monkeypatch.setattr(sys, "stderr", unread)
    signals = StopSignals()
    signals._note(signal.SIGTERM, None)
    assert signals.received is signal.SIGTERM


def test_a_full_disk_is_an_error(monkeypatch):
    with contextlib.suppress(OSError), Path("/dev/full").open("w", buffering=1) as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        outlive_readers()
        with pytest.raises(OSError, match="No space left"):
            sys.stdout.write("a line\n")
