"""Reading pickled files without running what is in them.

Torch's restricted unpickler builds tensors and plain values only; a file that asks for anything else is
refused (https://docs.pytorch.org/docs/stable/notes/serialization.html#weights-only).
"""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from cbam_lightning.errors import UsageError
from cbam_lightning.weights.header import printable


def existing_file(path: str | Path) -> Path:
    """Return the path of a checkpoint that exists.

    Raises:
        UsageError: There is no such file.
    """
    path = Path(path)
    if not path.is_file():
        message = f"there is no checkpoint file {path}; check the path."
        raise UsageError(message)
    return path


def read_pickle(path: str | Path) -> Any:
    """Read what ``torch.save`` wrote, in today's format or that of torch before 1.6, and run nothing in it.

    Args:
        path: The file.

    Returns:
        Tensors on the CPU and plain values, in the lists and dictionaries of the file.

    Raises:
        UsageError: The file does not exist, is truncated or damaged, or holds more than plain values.
    """
    path = existing_file(path)
    content = io.BytesIO(path.read_bytes())
    try:
        _refuse_compression(content)
        return _plain(torch.load(content, map_location="cpu", weights_only=True), {})
    except pickle.UnpicklingError as error:
        raise refusal(path, error) from None
    except Exception as error:  # a damaged pickle makes its reader raise nearly anything
        raise unreadable(path, "checkpoint", error) from None


def _refuse_compression(content: io.BytesIO) -> None:
    """Refuse an archive that is longer once it is read; ``torch.save`` compresses nothing."""
    if content.getvalue().startswith(b"PK"):
        with zipfile.ZipFile(content) as archive:
            unpacked = sum(record.file_size for record in archive.infolist())
        if unpacked > len(content.getvalue()):
            message = f"its records have {unpacked} bytes, more than the file"
            raise ValueError(message)
    content.seek(0)


def _plain(value: Any, copies: dict[int, dict[Any, Any]]) -> Any:
    """Copy dictionaries in dictionaries: those of a subclass can bring attributes in place of their methods.

    Args:
        value: Of the file.
        copies: By the ``id`` of what they were made of, since a dictionary may stand in many places.
    """
    if not isinstance(value, dict):
        return value
    if id(value) not in copies:
        copies[id(value)] = copy = {}
        copy.update({key: _plain(item, copies) for key, item in dict.items(value)})
    return copies[id(value)]


def unreadable(path: str | Path, kind: str, error: Exception) -> UsageError:
    """Build the error for a file whose reader gave up."""
    reason = printable(str(error).split("\n")[0])[:160] or type(error).__name__
    return UsageError(f"{path} cannot be read as a {kind}; it is truncated or damaged ({reason}).")


def refusal(path: str | Path, error: pickle.UnpicklingError) -> UsageError:
    """Build the error for a file that the restricted unpickler would not read."""
    # torch's own text recommends to load the file without this protection
    found = re.search(r"GLOBAL (\S+)", printable(str(error)))
    reason = f"it holds Python objects ({found[1]:.80})" if found else "it is damaged or holds Python objects"
    return UsageError(f"{path} is refused: {reason}, which could run code. Only plain values are loaded.")
