"""Errors are traced to the user's own files, in this process and in worker processes."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader

from cbam_lightning.errors import UsageError
from cbam_lightning.user_code.tracebacks import is_user_file, user_line, without_worker_traceback

CODE = """
import torch
from cbam_lightning.errors import UsageError

class Data(torch.utils.data.Dataset):
    def __init__(self, error):
        self.error = error
    def __len__(self):
        return 2
    def __getitem__(self, index):
        raise self.error("item is odd")

def add(a, b):
    return torch.add(a, b)
"""


@pytest.fixture
def users(monkeypatch):
    monkeypatch.syspath_prepend(".")
    Path("users_code.py").write_text(CODE)
    yield importlib.import_module("users_code")
    del sys.modules["users_code"]


def caught(function):
    with pytest.raises(Exception) as raised:  # noqa: PT011 - whatever it is
        function()
    return raised.value


def test_the_innermost_line_of_the_user_counts(users):
    error = caught(lambda: users.add(torch.ones(2), torch.ones(3)))
    assert user_line(error).startswith("users_code.py, line 14: RuntimeError: The size of tensor a (2)")


def test_an_error_behind_another_is_found(users):
    error = ImportError("of a library")
    error.__cause__ = caught(lambda: users.add(1, "x"))
    assert user_line(error).startswith("users_code.py, line 14: TypeError")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_worker_process_changes_nothing(users, num_workers):
    loader = DataLoader(users.Data(ValueError), num_workers=num_workers)
    assert user_line(caught(lambda: next(iter(loader)))) == "users_code.py, line 11: ValueError: item is odd"
    loader = DataLoader(users.Data(UsageError), num_workers=num_workers)
    assert without_worker_traceback(caught(lambda: next(iter(loader)))) == "item is odd"


def test_whose_a_file_is():
    assert is_user_file("/home/me/my.py")
    for path in (torch.__file__, importlib.__file__, sys.modules["cbam_lightning"].__file__, "<frozen x>"):
        assert not is_user_file(path)


def from_worker(error, cause=None):
    """Return an exception as a ``DataLoader`` raises it again; a real one needs seconds to end its worker."""
    try:
        raise error from cause
    except Exception:
        wrapped = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(type(error)) as caught:
        wrapped.reraise()
    assert "Traceback" in str(caught.value)
    return caught.value


def test_a_workers_error_is_its_line_again():
    line = "item 3 is wrong: UsageError: …; allowed: an image"
    assert without_worker_traceback(from_worker(UsageError(line))) == line
    assert without_worker_traceback(from_worker(UsageError(line), UsageError("the cause"))) == line
    assert without_worker_traceback(UsageError(line)) == line


def test_errors_of_other_classes():
    assert without_worker_traceback(from_worker(ValueError("two\nlines"))) == "two\nlines"
    missing = from_worker(FileNotFoundError(2, "No such file", "a.png"))
    assert without_worker_traceback(missing) == "[Errno 2] No such file: 'a.png'"
    assert without_worker_traceback(UsageError("Caught nothing")) == "Caught nothing"
