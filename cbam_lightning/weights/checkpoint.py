"""Checkpoint files: Lightning's training state (``.ckpt``) and the one we share (``.safetensors``).

No function here runs code from a file: ``.ckpt`` files are read with torch's restricted unpickler, and
safetensors files hold only numbers and text.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cbam_lightning.errors import UsageError
from cbam_lightning.weights.files import atomic_write
from cbam_lightning.weights.header import Header

# Where the Lightning module keeps the network, and so the prefix of its keys in a `.ckpt`.
NETWORK_PREFIX = "network."
# The entry that the run's callback adds to a `.ckpt`: experiment, seed, metrics, version.
PROVENANCE_KEY = "cbam_lightning"


@dataclass(frozen=True)
class Checkpoint:
    """A network's values and the header that says what they are."""

    header: Header
    state_dict: dict[str, Tensor]


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        message = f"there is no checkpoint file {path}; give the path of a .ckpt or .safetensors file."
        raise UsageError(message)
    return path


def read_training_state(path: str | Path) -> dict[str, Any]:
    """Read a Lightning ``.ckpt`` without running anything in it.

    Args:
        path: The file.

    Returns:
        Lightning's dictionary, its tensors on the CPU.

    Raises:
        UsageError: The file does not exist, is truncated, is no checkpoint, or holds more than plain values.
    """
    path = _existing(path)
    content = io.BytesIO(path.read_bytes())
    try:
        state = torch.load(content, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own text recommends to load the file without this protection
        found = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it holds Python objects ({found[1]})" if found else "it is damaged or holds Python objects"
        message = f"{path} is refused: {reason}, which could run code. Only plain values are loaded."
        raise UsageError(message) from None
    except Exception as error:  # a damaged pickle makes its reader raise nearly anything
        reason = str(error).split("\n")[0][:160] or type(error).__name__
        message = f"{path} cannot be read as a checkpoint; it is truncated or damaged ({reason})."
        raise UsageError(message) from None
    if not isinstance(state, dict) or not isinstance(state.get("state_dict"), dict):
        message = f"{path} is not a Lightning checkpoint: it has no state_dict."
        raise UsageError(message)
    for name in ("hyper_parameters", PROVENANCE_KEY):
        if not isinstance(state.get(name, {}), dict):
            message = f"{path} is not a checkpoint of ours: its {name} should be a dictionary."
            raise UsageError(message)
    return state


def _from_training_state(path: Path) -> Checkpoint:
    state = read_training_state(path)
    values = {**state.get("hyper_parameters", {}), **state.get(PROVENANCE_KEY, {})}
    network = {
        key[len(NETWORK_PREFIX) :]: value
        for key, value in state["state_dict"].items()
        if isinstance(key, str) and key.startswith(NETWORK_PREFIX) and isinstance(value, Tensor)
    }
    return Checkpoint(Header.from_dict(values, str(path)), network)


def _from_safetensors(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="pt") as file:
            header = Header.from_metadata(file.metadata(), str(path))
            return Checkpoint(header, {key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
    except SafetensorError as error:
        message = f"{path} cannot be read as a safetensors file; it is truncated or damaged ({error})."
        raise UsageError(message) from None


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint of either kind.

    Args:
        path: A ``.safetensors`` file of ours, or a Lightning ``.ckpt`` of a ``Classifier``.

    Returns:
        The network's values, under the network's own key names, and the header.

    Raises:
        UsageError: The file does not exist, is damaged, holds code, or says nothing of its network.
    """
    path = _existing(path)
    return _from_safetensors(path) if path.suffix == ".safetensors" else _from_training_state(path)


def save_checkpoint(path: str | Path, state_dict: Mapping[str, Tensor], header: Header) -> None:
    """Write a ``.safetensors`` file, whole or not at all.

    Args:
        path: Ends in ``.safetensors``.
        state_dict: The network's values under its own key names.
        header: Goes into the file's metadata.

    Raises:
        UsageError: The name has another ending.
        OSError: The file cannot be written; what stood there before is unchanged.
    """
    if Path(path).suffix != ".safetensors":
        message = f"{path} should end in .safetensors, the format of a shared checkpoint."
        raise UsageError(message)
    tensors = {key: value.detach().cpu().contiguous() for key, value in state_dict.items()}
    data = save(tensors, metadata=header.to_metadata())
    with atomic_write(path) as file:
        file.write(data)
