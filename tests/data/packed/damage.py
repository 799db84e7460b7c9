"""Damage to packed sets, and indices as a stranger could make them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def sealed(fields: dict[str, Any]) -> bytes:
    """Return a packed index with the hash that belongs to it, built literally."""
    content = json.dumps(fields)[1:].encode()
    return b'{"sha256": "%s", %s' % (hashlib.sha256(content).hexdigest().encode(), content)


def replace_index(folder: Path, index: dict[str, Any]) -> None:
    """Replace LitData's index with another one, and everywhere the hashes with those that belong to it."""
    for chunk in index["chunks"]:
        chunk["sha256"] = hashlib.sha256((folder / chunk["filename"]).read_bytes()).hexdigest()
    content = json.dumps(index).encode()
    (folder / "index.json").write_bytes(content)
    packed = json.loads((folder / "packed-index.json").read_bytes())
    del packed["sha256"]
    packed["parts"][""]["index_sha256"] = hashlib.sha256(content).hexdigest()
    (folder / "packed-index.json").write_bytes(sealed(packed))


def flip(path: Path, position: int) -> None:
    """Change one bit of the byte at a position."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
