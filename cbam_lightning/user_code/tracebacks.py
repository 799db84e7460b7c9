"""Where in the user's own code an error occurred."""

from __future__ import annotations

import re
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

_PACKAGE = str(Path(__file__).parent.parent)
_LIBRARIES = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
# torch raises the error of a worker process again with its traceback as the message
# (``torch._utils.ExceptionWrapper``).
_CAUGHT = re.compile(r"Caught (\w+) in [^\n]+\.\nOriginal ")
_FRAME = re.compile(r'^ *File "(.+)", line (\d+), in ', re.MULTILINE)


def without_worker_traceback(error: BaseException) -> str:
    """Return the message of an exception; for one from a ``DataLoader`` worker, its original message."""
    text = str(error)
    if not (caught := _CAUGHT.match(text)):
        return text
    # the last one in the traceback: those before it are its causes
    message = re.split(rf"^(?:\w+\.)*{caught[1]}: ", text, flags=re.MULTILINE)[-1]
    return message.strip()


def describe_error(error: BaseException) -> str:
    """Return for example "KeyError: 'x' (flowers.py, line 12)", with the place in the user's code, if any."""
    text = " ".join(f"{type(error).__name__}: {without_worker_traceback(error)}".split()).removesuffix(":")
    place = _place(error)
    return f"{text} ({place})" if place else text


def user_line(error: BaseException) -> str | None:
    """Return the line of the user's own code at which an error occurred, with the error.

    Args:
        error: A caught exception. Its causes and the frames of worker processes are searched as well.

    Returns:
        For example ``my_task.py, line 12: ValueError: …``; None if no user code was involved.
    """
    for found in with_causes(error):
        if place := _place(found):
            text = found.msg if isinstance(found, SyntaxError) else without_worker_traceback(found)
            return f"{place}: {type(found).__name__}{f': {text}' if text else ''}"
    return None


def is_user_file(filename: str) -> bool:
    """Return whether a file belongs neither to Python, nor to an installed package, nor to this package."""
    path = Path(filename)
    if filename.startswith("<") or {"site-packages", "dist-packages"} & set(path.parts):
        return False
    return not any(path.is_relative_to(folder) for folder in (_PACKAGE, *_LIBRARIES))


def _place(error: BaseException) -> str | None:
    """Return file and line of the innermost user frame in the traceback of an error."""
    frames = _frames(error)
    if isinstance(error, SyntaxError) and error.filename:
        frames.append((error.filename, error.lineno or 0))
    places = [f"{_relative(file)}, line {line}" for file, line in frames if is_user_file(file)]
    return places[-1] if places else None


def _relative(filename: str) -> str:
    """Return a path relative to the current folder, if it is inside."""
    path, folder = Path(filename), Path.cwd()
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else filename


def _frames(error: BaseException) -> list[tuple[str, int]]:
    """Return files and lines of the traceback, outermost first; those of the worker if it is from one."""
    text = str(error)
    if _CAUGHT.match(text):
        return [(file, int(line)) for file, line in _FRAME.findall(text)]
    return [(frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__)]


def with_causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, then the errors that it was raised from."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
