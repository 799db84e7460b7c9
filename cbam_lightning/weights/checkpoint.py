"""Checkpoint files: Lightning's training state (``.ckpt``) and the one we share (``.safetensors``).

No function here runs code from a file: ``.ckpt`` files are read by ``read_pickle``, and safetensors files
hold only numbers and text.
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
from cbam_lightning.weights.header import Header
from cbam_lightning.weights.unpickle import existing_file, read_pickle, unreadable

# Where the Lightning module keeps the network, and so the prefix of its keys in a `.ckpt`.
NETWORK_PREFIX = "network."
# The entry that the run's callback adds to a `.ckpt`: experiment, seed, metrics, version.
PROVENANCE_KEY = "cbam_lightning"
# Where others keep the network in a file, the moving average of training (EMA) before the raw values.
_CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model")
# What a header may say of any file: a reduction can be larger than a small network has values.
_ANY_SIZE = 1000
# What the values of a network can be; other types lack operations that loading and saving need.
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_DTYPES = (*_FLOATS, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


@dataclass(frozen=True)
class Checkpoint:
    """A network's values and the header that says what they are."""

    header: Header
    state_dict: dict[str, Tensor]


def read_training_state(path: str | Path) -> dict[str, Any]:
    """Read a Lightning ``.ckpt`` without running anything in it.

    Args:
        path: The file.

    Returns:
        Lightning's dictionary, its tensors on the CPU.

    Raises:
        UsageError: The file does not exist, is truncated, is no checkpoint, or holds more than plain values.
    """
    state: Any = read_pickle(path)
    if not isinstance(state, dict) or not isinstance(state.get("state_dict"), dict):
        message = f"{path} is not a Lightning checkpoint: it has no state_dict."
        raise UsageError(message)
    for name in ("hyper_parameters", PROVENANCE_KEY):
        values = state.get(name, {})
        if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
            message = f"{path} is not a checkpoint of ours: its {name} should be a dictionary of names."
            raise UsageError(message)
    return state


def _from_training_state(path: Path) -> Checkpoint:
    state = read_training_state(path)
    values = {**state.get("hyper_parameters", {}), **state.get(PROVENANCE_KEY, {})}
    options = values.get("attention_options")
    if isinstance(options, dict):  # which implementation ran is a matter of the machine
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
    except Exception as error:  # SafetensorError, and what torch raises for shapes that it cannot have
        raise unreadable(path, "safetensors file", error) from None
    return metadata, _checked(tensors, path)


def _checked(state: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    """Return a state dict of nothing but names and numbers, whoever wrote it.

    Raises:
        UsageError: A key is no printable text, or a value no tensor of numbers that stand in the file.
    """
    checked = {}
    for key, value in state.items():
        if not isinstance(key, str) or not key.isprintable():
            message = f"{path} is no state dict: one of its keys is no name."
            raise UsageError(message)
        # a tensor, too, may bring attributes in place of its methods, which its copy lacks
        tensor = Tensor.detach(value) if isinstance(value, Tensor) else None
        if tensor is None or not _is_whole(tensor):
            message = f"{path} is no state dict: {key!r:.80} is a {type(value).__name__}, not a tensor"
            raise UsageError(f"{message}." if tensor is None else f"{message} of numbers that are all there.")
        checked[key] = tensor
    return checked


def _is_whole(tensor: Tensor) -> bool:
    """Tell whether a tensor is a plain array, of which memory holds every element."""
    if tensor.is_nested or tensor.layout != torch.strided or tensor.dtype not in _DTYPES:
        return False
    needed = tensor.numel() * tensor.element_size()
    return tensor.device.type == "cpu" and needed <= tensor.untyped_storage().nbytes()


def read_state_dict(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the network of a file that anyone wrote, with or without a header, and run nothing in it.

    Args:
        path: A ``.safetensors`` file, or one of ``torch.save`` (``.pth.tar``, ``.pth``, ``.pt``, ``.bin``,
            ``.ckpt``): a state dict, or a dictionary that holds one as ``state_dict_ema``, ``model_ema``,
            ``state_dict`` or ``model``. The first of these that is there is taken.

    Returns:
        The state dict under the file's own key names, and the numbers and texts beside it, such as
        ``epoch``, ``arch`` and ``best_prec1``; ``averaged`` is added, and tells an EMA's values.

    Raises:
        UsageError: The file does not exist, is damaged, holds code, or has no state dict of tensors.
    """
    path = existing_file(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)[1], {"averaged": False}
    content = read_pickle(path)
    if not isinstance(content, dict):
        message = f"{path} holds a {type(content).__name__}, not a state dict."
        raise UsageError(message)
    container = next((name for name in _CONTAINERS if isinstance(content.get(name), dict)), None)
    state = content[container] if container else content
    if not state:
        message = f"{path} is no state dict: it holds no tensor."
        raise UsageError(message)
    extras = {key: _plain(value) for key, value in content.items()} if container else {}
    kept = {key: value for key, value in extras.items() if isinstance(value, (str, int, float))}
    return _checked(state, path), {**kept, "averaged": str(container).endswith("_ema")}


def _plain(value: Any) -> Any:
    # a training script of old saves its accuracy as a tensor of one element
    value = Tensor.detach(value) if isinstance(value, Tensor) else value
    return value.item() if isinstance(value, Tensor) and _is_whole(value) and value.numel() == 1 else value


def _from_safetensors(path: Path) -> Checkpoint:
    metadata, state_dict = _read_safetensors(path)
    return Checkpoint(Header.from_metadata(metadata, str(path)), state_dict)


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint of either kind.

    Args:
        path: A ``.safetensors`` file of ours, or a Lightning ``.ckpt`` of a ``Classifier``.

    Returns:
        The network's values, under the network's own key names, and the header.

    Raises:
        UsageError: The file does not exist, is damaged, holds code, or says nothing of its network.
    """
    path = existing_file(path)
    read = _from_safetensors if path.suffix == ".safetensors" else _from_training_state
    checkpoint = read(path)
    _check_sizes(checkpoint, path)
    return checkpoint


def _check_sizes(checkpoint: Checkpoint, path: Path) -> None:
    """Refuse a header that would have a network built of which the file holds a small part at most.

    Raises:
        UsageError: A number in it is larger than any network of that many values can have.
    """
    header, state = checkpoint.header, checkpoint.state_dict
    depths = _integers(header.network_options.get("depths"))
    rest = {key: value for key, value in header.network_options.items() if key != "depths"}
    sizes = _integers([header.num_classes, header.in_channels, rest, header.attention_options])
    num_values = sum(value.numel() for value in state.values())
    for numbers, limit in ((depths, len(state)), (sizes, num_values)):
        if max(numbers, default=0) > max(limit, _ANY_SIZE):
            message = (
                f"{path} has a damaged header: it says {max(numbers)}, and the file has {num_values} values."
            )
            raise UsageError(message)


def _integers(value: Any) -> list[int]:
    """Return the integers anywhere in a value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [number for item in value for number in _integers(item)]
    return [value] if isinstance(value, int) else []


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
    # copied, since the format does not hold one tensor under two names
    copy = torch.contiguous_format
    tensors = {key: value.detach().cpu().clone(memory_format=copy) for key, value in state_dict.items()}
    data = save(tensors, metadata=header.to_metadata())
    with atomic_write(path) as file:
        file.write(data)
