"""Names in figures and tables: shortened in the middle, as many differ at the end, and broken into lines."""

from __future__ import annotations

import re

_CLASS_CHARACTERS = 18  # with its probability, a class is as wide as an image of the figure


def shortened(text: str, length: int = _CLASS_CHARACTERS) -> str:
    """Return a text of at most a number of characters, all of which can be printed."""
    plain = "".join(character if character.isprintable() else "?" for character in text)
    if len(plain) <= length:
        return plain
    end = (length - 1) // 2
    return f"{plain[: length - 1 - end]}…{plain[len(plain) - end :]}"


def in_lines(text: str, width: int = 18, most: int = 3) -> str:
    """Break a name such as ``resnet20_cbam.fashion_mnist`` between its parts, and shorten it if need be."""
    for length in range(width * most, 0, -1):
        lines = _broken(shortened(text, length), width)
        if len(lines) <= most:
            break
    return "\n".join(lines)


def _broken(text: str, width: int) -> list[str]:
    lines = [""]
    for part in re.findall(r"[^\s._/-]*[\s._/-]?", text):
        for piece in (part[i : i + width] for i in range(0, len(part), width)):
            if lines[-1] and len(lines[-1] + piece) > width:
                lines.append("")
            lines[-1] += piece
    return lines
