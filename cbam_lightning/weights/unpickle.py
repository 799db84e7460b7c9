"""Reading pickled files without running what is in them.

Torch's restricted unpickler builds tensors and plain values only; a file that asks for anything else is
refused (https://docs.pytorch.org/docs/stable/notes/serialization.html#weights-only).
"""

from __future__ import annotations

import io
import pickle
import re
from pathlib import Path
from typing import Any

import torch

from cbam_lightning.errors import UsageError


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
        return torch.load(content, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise refusal(path, error) from None
    except Exception as error:  # a damaged pickle makes its reader raise nearly anything
        reason = str(error).split("\n")[0][:160] or type(error).__name__
        message = f"{path} cannot be read as a checkpoint; it is truncated or damaged ({reason})."
        raise UsageError(message) from None


def refusal(path: str | Path, error: pickle.UnpicklingError) -> UsageError:
    """Build the error for a file that the restricted unpickler would not read."""
    # torch's own text recommends to load the file without this protection
    found = re.search(r"GLOBAL (\S+)", str(error))
    reason = f"it holds Python objects ({found[1]})" if found else "it is damaged or holds Python objects"
    return UsageError(f"{path} is refused: {reason}, which could run code. Only plain values are loaded.")
