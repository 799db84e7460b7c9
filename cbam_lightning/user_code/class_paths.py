"""Classes and modules of the user's by their import path, such as ``my_package.MyAttention``.

Importing runs code. What a person types is imported; what stands in a checkpoint is only looked up among the
modules that are there already.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from cbam_lightning.errors import UsageError
from cbam_lightning.user_code.tracebacks import users_line

_MAY_IMPORT = ContextVar("may_import", default=True)


@contextmanager
def importing_nothing() -> Iterator[None]:
    """Keep ``import_class_path`` from importing, while names come from a checkpoint."""
    token = _MAY_IMPORT.set(False)
    try:
        yield
    finally:
        _MAY_IMPORT.reset(token)


def is_class_path(name: object) -> bool:
    """Tell whether a name has the form of an import path: identifiers joined by dots, two or more."""
    parts = name.split(".") if isinstance(name, str) else []
    return len(parts) > 1 and all(part.isidentifier() for part in parts)


def import_module(name: str, option: str) -> None:
    """Import a module that the user named, from the current folder or from what is installed.

    Args:
        name: Of the module.
        option: Where it was named, for messages.

    Raises:
        UsageError: There is no such module, or it raises; says where.
    """
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _broken(name, option, error) from error
        here = [path.stem for path in Path.cwd().glob("*.py")]
        close = difflib.get_close_matches(name, here, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        message = (
            f"{option}: there is no module {name!r}; give one that lies in {Path.cwd()} or is installed."
            f"{hint}"
        )
        raise UsageError(message) from error
    except (Exception, SystemExit) as error:
        raise _broken(name, option, error) from error


def import_class_path(path: str | None, option: str) -> None:
    """Import the module of a class path that the user typed; any other name, or None, does nothing.

    Nor does it within ``importing_nothing``.

    Args:
        path: Such as ``my_package.MyAttention``.
        option: Where it was typed, for messages.

    Raises:
        UsageError: There is no such module or no such name in it, or the module raises.
    """
    if path is None or not _MAY_IMPORT.get() or not is_class_path(path):
        return
    module, _, name = path.rpartition(".")
    import_module(module, option)
    if not hasattr(sys.modules[module], name):
        message = f"{option} is {path!r}, and there is no {name!r} in {_where(sys.modules[module], module)}."
        raise UsageError(message)


def find_class(path: object) -> type | None:
    """Return the class of a path if its module was imported before; nothing is imported here."""
    if not isinstance(path, str) or not is_class_path(path):
        return None
    module, _, name = path.rpartition(".")
    found = getattr(sys.modules.get(module), name, None)
    return found if isinstance(found, type) else None


def _where(module: object, name: str) -> str:
    return str(getattr(module, "__file__", None) or name)


def _broken(name: str, option: str, error: BaseException) -> UsageError:
    place = users_line(error) or f"{type(error).__name__}: {error}"
    return UsageError(f"{option}: {name!r} cannot be imported. {place}")
