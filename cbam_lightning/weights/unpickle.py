"""Read pickled files without running code from them.

Torch's restricted unpickler builds only tensors and plain values, and refuses a file that asks for anything
else (https://docs.pytorch.org/docs/stable/notes/serialization.html#weights-only).
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
    """Return the path of an existing checkpoint file.

    Raises:
        UsageError: There is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"there is no checkpoint file {path}; check the path.")
    return path


def read_pickle(path: str | Path) -> Any:
    """Read a file of ``torch.save``, of torch before or after 1.6, without running code from it.

    Args:
        path: The file.

    Returns:
        The lists and dictionaries of the file, with plain values and tensors on the CPU.

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
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise unreadable(path, "checkpoint", error) from None


def _refuse_compression(content: io.BytesIO) -> None:
    """Refuse an archive that grows when it is unpacked, since ``torch.save`` does not compress."""
    if content.getvalue().startswith(b"PK"):
        with zipfile.ZipFile(content) as archive:
            unpacked = sum(record.file_size for record in archive.infolist())
        if unpacked > len(content.getvalue()):
            raise ValueError(f"its records have {unpacked} bytes, more than the file has")
    content.seek(0)


def _plain(value: Any, copies: dict[int, dict[Any, Any]]) -> Any:
    """Copy nested dictionaries: those of a subclass may have attributes that replace their methods.

    Args:
        value: A value of the file.
        copies: Copies by the ``id`` of the original, since a dictionary may occur many times.
    """
    if not isinstance(value, dict):
        return value
    if id(value) not in copies:
        copies[id(value)] = copy = {}
        copy.update({key: _plain(item, copies) for key, item in dict.items(value)})
    return copies[id(value)]


def unreadable(path: str | Path, kind: str, error: Exception) -> UsageError:
    """Build the error for a file that cannot be parsed."""
    reason = printable(str(error).split("\n")[0])[:160] or type(error).__name__
    return UsageError(f"{path} cannot be read as a {kind}; it is truncated or damaged ({reason}).")


def refusal(path: str | Path, error: pickle.UnpicklingError) -> UsageError:
    """Build the error for a file that the restricted unpickler refuses."""
    # torch's own message recommends loading the file without this protection
    name = re.search(r"GLOBAL (\S+)", printable(str(error)))
    reason = f"it holds Python objects ({name[1]:.80})" if name else "it is damaged or holds Python objects"
    advice = "save its state_dict, not the module, with the code that wrote it"
    return UsageError(
        f"{path} is refused: {reason}, which could run code. Only plain values are loaded; {advice}."
    )
