"""Where in the user's own code an error arose."""

from __future__ import annotations

import re
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

_PACKAGE = Path(__file__).parent.parent
_LIBRARIES: tuple[str, ...] = tuple(
    sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")
)
# What torch makes of a worker's error (``torch._utils.ExceptionWrapper``): its traceback is the message.
_CAUGHT = re.compile(r"Caught (\w+) in [^\n]+\.\nOriginal ")
_FRAME = re.compile(r'^ *File "(.+)", line (\d+), in ', re.MULTILINE)


def without_worker_traceback(error: BaseException) -> str:
    """Return the message that an exception had before torch raised it again out of a ``DataLoader``'s worker.

    Args:
        error: Any exception.

    Returns:
        Its own message; that of ``error`` as it is if it comes from no worker.
    """
    text = str(error)
    if not (caught := _CAUGHT.match(text)):
        return text
    # the last one in the traceback: those before it are its causes
    message = re.split(rf"^(?:\w+\.)*{caught[1]}: ", text, flags=re.MULTILINE)[-1]
    return message.strip()


def raised(error: BaseException) -> str:
    """Return "KeyError: 'x' (flowers.py, line 12)", where the place is the user's, if there is one."""
    text = " ".join(f"{type(error).__name__}: {without_worker_traceback(error)}".split()).removesuffix(":")
    place = _place(error)
    return text if place is None else f"{text} ({place})"


def users_line(error: BaseException) -> str | None:
    """Say where in the user's own code an error arose: file, line and the error itself.

    Args:
        error: Caught; those that it was raised from are looked at as well, and those in worker processes.

    Returns:
        Such as ``my_task.py, line 12: ValueError: …``; None if no code of the user's took part.
    """
    for found in _chain(error):
        if (place := _place(found)) is not None:
            text = found.msg if isinstance(found, SyntaxError) else without_worker_traceback(found)
            return f"{place}: {type(found).__name__}{f': {text}' if text else ''}"
    return None


def _place(error: BaseException) -> str | None:
    """Return file and line of the user's innermost frame in the traceback of an error."""
    if isinstance(error, SyntaxError) and error.filename and is_users(error.filename):
        return f"{_short(error.filename)}, line {error.lineno}"
    frames = [f"{_short(file)}, line {line}" for file, line in _frames(error) if is_users(file)]
    return frames[-1] if frames else None


def _short(filename: str) -> str:
    """Return a path as the user would type it in the current folder."""
    path, folder = Path(filename), Path.cwd()
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else filename


def _frames(error: BaseException) -> list[tuple[str, int]]:
    """Return files and lines of the traceback, outermost first; of a worker's, if the error is from there."""
    text = str(error)
    if _CAUGHT.match(text):
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
