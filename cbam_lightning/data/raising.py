"""An exception of the user's code in a few words, with the place where it was raised."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

_INSTALLED = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def raised(error: BaseException) -> str:
    """Return "KeyError: 'x' (flowers.py, line 12)": the last place in code that is not installed."""
    text = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
    frames = traceback.extract_tb(error.__traceback__)
    ours = str(Path(__file__).parent)
    own = [f for f in frames if not f.filename.startswith((ours, "<", *_INSTALLED))]
    return f"{text} ({own[-1].filename}, line {own[-1].lineno})" if own else text
