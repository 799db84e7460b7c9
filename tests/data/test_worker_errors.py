import pytest
from torch._utils import ExceptionWrapper

from cbam_lightning.data.worker_errors import without_worker_traceback
from cbam_lightning.errors import UsageError


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
