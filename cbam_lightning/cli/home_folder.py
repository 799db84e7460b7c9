"""``~`` in options: the shell replaces it in some places only, and in configuration files nobody does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def expand_words(words: Sequence[str]) -> list[str]:
    """Return the words of a command line with ``~/`` replaced at the start of a word and after ``=``."""
    expanded = []
    for word in words:
        name, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        expanded.append(f"{name}{equals}{_expand(value)}")
    return expanded


def expand_values(values: Any) -> None:
    """Replace ``~/`` at the start of each text in a configuration, which is changed in place.

    Args:
        values: A mapping with texts, mappings and lists of them.
    """
    keys = range(len(values)) if isinstance(values, list) else list(values.keys())
    for key in keys:
        value = values[key]
        if isinstance(value, str):
            values[key] = _expand(value)
        elif isinstance(value, list) or hasattr(value, "keys"):
            expand_values(value)


def _expand(text: str) -> str:
    return str(Path(text).expanduser()) if text.startswith("~/") else text
