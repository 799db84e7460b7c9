"""Checkpoint files: Lightning's training state (``.ckpt``) and the files we share (``.safetensors``).

No function here runs code from a file: ``read_pickle`` reads ``.ckpt`` files, and safetensors files hold only
numbers and text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from cbam_lightning.errors import UsageError
from cbam_lightning.files import atomic_write
from cbam_lightning.weights.header import Header, import_advice, printable
from cbam_lightning.weights.unpickle import existing_file, read_pickle, unreadable
from cbam_lightning.weights.wrappers import find_state_dict

# The attribute of the Lightning module that holds the network: the prefix of its keys in a `.ckpt`.
NETWORK_PREFIX = "network."
# The entry that a callback adds to a `.ckpt`: experiment, seed, metrics, version.
PROVENANCE_KEY = "cbam_lightning"
# Sizes in a header up to this are always allowed: a reduction may exceed the size of a small network.
_ANY_SIZE = 1000
# Allowed types of a network's values; others lack operations that loading and saving need.
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_DTYPES = (*_FLOATS, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


@dataclass(frozen=True)
class Checkpoint:
    """The values of a network and the header that describes them."""

    header: Header
    state_dict: dict[str, Tensor]


def read_training_state(path: str | Path) -> dict[str, Any]:
    """Read a Lightning ``.ckpt`` without running code from it.

    Args:
        path: The file.

    Returns:
        Lightning's dictionary, with its tensors on the CPU.

    Raises:
        UsageError: The file does not exist, is truncated, is not a checkpoint, or holds more than plain
            values.
    """
    state: Any = read_pickle(path)
    if not isinstance(state, dict) or not isinstance(state.get("state_dict"), dict):
        raise UsageError(f"{path} is not a Lightning checkpoint: it has no state_dict. {import_advice(path)}")
    for name in ("hyper_parameters", PROVENANCE_KEY):
        values = state.get(name, {})
        if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
            raise UsageError(
                f"{path} is not our checkpoint: its {name} should be a dictionary with string keys."
            )
    return state


def _from_training_state(path: Path) -> Checkpoint:
    state = read_training_state(path)
    values = {**state.get("hyper_parameters", {}), **state.get(PROVENANCE_KEY, {})}
    options = values.get("attention_options")
    if isinstance(options, dict):  # the implementation depends on the machine
        values["attention_options"] = {k: v for k, v in options.items() if k != "implementation"}
    network = {
        key[len(NETWORK_PREFIX) :]: value
        for key, value in state["state_dict"].items()
        if isinstance(key, str) and key.startswith(NETWORK_PREFIX) and isinstance(value, Tensor)
    }
    return Checkpoint(Header.from_dict(values, str(path)), _checked(network, path))


def _read_safetensors(path: Path) -> tuple[dict[str, str] | None, dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = file.metadata()
    except OSError:
        raise
    except Exception as error:  # SafetensorError, and torch's errors for impossible shapes
        raise unreadable(path, "safetensors file", error) from None
    return metadata, _checked(tensors, path)


def _checked(state: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    """Return a state dict that holds only names and numbers, whatever the file holds.

    Raises:
        UsageError: A key is not printable text, or a value is not a tensor whose numbers are all in the file.
    """
    checked = {}
    for key, value in state.items():
        if not isinstance(key, str) or not key.isprintable():
            raise UsageError(f"{path} is not a state dict: one of its keys is not a name.")
        # even a tensor may have attributes that replace its methods; its copy does not
        tensor = Tensor.detach(value) if isinstance(value, Tensor) else None
        if tensor is None or not _is_whole(tensor):
            message = f"{path} is not a state dict: {key!r:.80} is a {type(value).__name__}, not a tensor"
            raise UsageError(f"{message}." if tensor is None else f"{message} with all its numbers.")
        checked[key] = tensor
    return checked


def _is_whole(tensor: Tensor) -> bool:
    """Return whether a tensor is a plain array with every element in memory."""
    if tensor.is_nested or tensor.layout != torch.strided or tensor.dtype not in _DTYPES:
        return False
    needed = tensor.numel() * tensor.element_size()
    return tensor.device.type == "cpu" and needed <= tensor.untyped_storage().nbytes()


def read_state_dict(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the state dict of a file from any source, with or without a header, without running its code.

    Args:
        path: A ``.safetensors`` file, or a file of ``torch.save`` (``.pth.tar``, ``.pth``, ``.pt``, ``.bin``,
            ``.ckpt``): a state dict, or a dictionary that holds one under a usual name, such as
            ``state_dict``, ``model`` or ``net``; a moving average, such as ``state_dict_ema``, is preferred.

    Returns:
        The state dict with the file's own keys, and the other numbers and strings of the file, such as
        ``epoch``, ``arch`` and ``best_prec1``. ``averaged`` is added: whether the values are an EMA.

    Raises:
        UsageError: The file does not exist, is damaged, holds code, or has no state dict of tensors.
    """
    path = existing_file(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)[1], {"averaged": False}
    content = read_pickle(path)
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds a {type(content).__name__}, not a state dict.")
    found = find_state_dict(content)
    if found is None:
        keys = ", ".join(printable(f"{key!s:.40}") for key in [*content][:8]) or "none"
        raise UsageError(f"{path} is not a state dict: it holds no tensor, and these keys: {keys}.")
    state, averaged = found
    extras = {} if state is content else {key: _plain(value) for key, value in content.items()}
    kept = {key: value for key, value in extras.items() if isinstance(value, (str, int, float))}
    return _checked(state, path), {**kept, "averaged": averaged}


def _plain(value: Any) -> Any:
    # older training scripts save the accuracy as a tensor of one element
    value = Tensor.detach(value) if isinstance(value, Tensor) else value
    return value.item() if isinstance(value, Tensor) and _is_whole(value) and value.numel() == 1 else value


def _from_safetensors(path: Path) -> Checkpoint:
    metadata, state_dict = _read_safetensors(path)
    return Checkpoint(Header.from_metadata(metadata, str(path)), state_dict)


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint of either kind.

    Args:
        path: A ``.safetensors`` file with our header, or a Lightning ``.ckpt`` of one of our tasks.

    Returns:
        The values, with the network's own keys, and the header.

    Raises:
        UsageError: The file does not exist, is damaged, holds code, or does not describe its network.
    """
    path = existing_file(path)
    read = _from_safetensors if path.suffix == ".safetensors" else _from_training_state
    checkpoint = read(path)
    _check_sizes(checkpoint, path)
    return checkpoint


def _check_sizes(checkpoint: Checkpoint, path: Path) -> None:
    """Refuse a header that describes a network far larger than the file.

    Raises:
        UsageError: A number in the header is too large for a network of that many values.
    """
    header, state = checkpoint.header, checkpoint.state_dict
    num_values = sum(value.numel() for value in state.values())
    fields = {
        **{name: getattr(header, name) for name in ("num_classes", "in_channels", "attention_options")},
        "network_options": {key: value for key, value in header.network_options.items() if key != "depths"},
        "depths": header.network_options.get("depths"),
    }
    for name, value in fields.items():
        largest = max(_integers(value), default=0)
        if largest > max(len(state) if name == "depths" else num_values, _ANY_SIZE):
            raise UsageError(
                f"{path} has a damaged header: {name} says {largest}, but the file has {num_values} values."
            )


def _integers(value: Any) -> list[int]:
    """Return all integers in nested lists and dictionaries."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [number for item in value for number in _integers(item)]
    return [value] if isinstance(value, int) else []


def save_checkpoint(path: str | Path, state_dict: Mapping[str, Tensor], header: Header) -> None:
    """Write a ``.safetensors`` file atomically.

    Args:
        path: Ends in ``.safetensors``.
        state_dict: The values, with the network's own keys.
        header: Written to the file's metadata.

    Raises:
        UsageError: The name has another ending.
        OSError: The file cannot be written; an existing file is unchanged.
    """
    if Path(path).suffix != ".safetensors":
        raise UsageError(f"{path} should end in .safetensors, the format of a shared checkpoint.")
    # copied, since the format refuses tensors that share memory
    copy = torch.contiguous_format
    tensors = {key: value.detach().cpu().clone(memory_format=copy) for key, value in state_dict.items()}
    data = save(tensors, metadata=header.to_metadata())
    with atomic_write(path) as file:
        file.write(data)
