"""Where in the user's own code an error arose."""

from __future__ import annotations

import re
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

_PACKAGE = Path(__file__).parent
_LIBRARIES: tuple[str, ...] = tuple(
    sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")
)
# torch raises an error of a worker process anew, with its traceback as text.
_IN_WORKER = "Original Traceback (most recent call last):"
_FRAME = re.compile(r'^ *File "(.+)", line (\d+), in ', re.MULTILINE)


def without_worker_traceback(error: BaseException) -> str:
    """Return the text of an error, without the traceback that torch adds to one of a worker process."""
    text = str(error)
    if _IN_WORKER not in text:
        return text
    # the last line is "module.ErrorClass: text"
    return text.rstrip().splitlines()[-1].partition(": ")[2]


def users_line(error: BaseException) -> str | None:
    """Say where in the user's own code an error arose: file, line and the error itself.

    Args:
        error: Caught; those that it was raised from are looked at as well, and those in worker processes.

    Returns:
        Such as ``my_task.py, line 12: ValueError: …``; None if no code of the user's took part.
    """
    for found in _chain(error):
        if isinstance(found, SyntaxError) and found.filename and is_users(found.filename):
            return f"{_short(found.filename)}, line {found.lineno}: {type(found).__name__}: {found.msg}"
        frames = [f"{_short(file)}, line {line}" for file, line in _frames(found) if is_users(file)]
        if frames:
            text = without_worker_traceback(found)
            return f"{frames[-1]}: {type(found).__name__}{f': {text}' if text else ''}"
    return None


def _short(filename: str) -> str:
    """Return a path as the user would type it in the current folder."""
    path, folder = Path(filename), Path.cwd()
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else filename


def _frames(error: BaseException) -> list[tuple[str, int]]:
    """Return files and lines of the traceback, outermost first; of a worker's, if the error is from there."""
    text = str(error)
    if _IN_WORKER in text:
        return [(file, int(line)) for file, line in _FRAME.findall(text)]
    return [(frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__)]


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, and then those that it was raised from."""
    seen: list[BaseException] = []
    behind: BaseException | None = error
    while behind is not None and not any(behind is known for known in seen):
        seen.append(behind)
        yield behind
        behind = behind.__cause__ or behind.__context__


def is_users(filename: str) -> bool:
    """Tell whether a file belongs neither to Python, nor to what is installed, nor to this package."""
    path = Path(filename)
    if filename.startswith("<") or {"site-packages", "dist-packages"} & set(path.parts):
        return False
    return not any(path.is_relative_to(folder) for folder in (str(_PACKAGE), *_LIBRARIES))
