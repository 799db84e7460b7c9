"""How other code wraps the values of a network: dictionaries in a file, and prefixes of the keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

# Where other code keeps the network in a file; the moving average (EMA) comes before the raw values.
_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "params_ema", "ema", "shadow")
_CONTAINERS = (
    *_AVERAGED,
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "net_state_dict"),
    *("weights", "params", "module", "backbone", "encoder"),
)
_DEPTH = 4
# The attribute of a class that holds the network and nothing else.
_HOLDERS = ("model.", "net.", "network.")
_PREFIXES = (*_HOLDERS, "module.", "_orig_mod.", "backbone.", "encoder.", "ema_model.", "ema.", "resnet.")


def find_state_dict(content: Mapping[Any, Any], depth: int = _DEPTH) -> tuple[Mapping[Any, Any], bool] | None:
    """Find the values of a network in nested dictionaries.

    Args:
        content: Of a file.
        depth: Number of dictionaries to look into, one in the other.

    Returns:
        The dictionary with the values, and whether they are a moving average; ``None``: there is none.
    """
    for name in _CONTAINERS if depth else ():
        inner = content.get(name)
        if isinstance(inner, dict) and (found := find_state_dict(inner, depth - 1)):
            return found[0], found[1] or name in _AVERAGED
    return (content, False) if any(isinstance(value, Tensor) for value in content.values()) else None


def unwrap(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Remove the names of the attributes that hold a network.

    Args:
        state_dict: Perhaps of a class around the network, such as a LightningModule.

    Returns:
        The values, and the keys that were left out: those beside the one attribute that holds the network,
        such as a loss with weights.
    """
    state, left_out = dict(state_dict), tuple[str, ...]()
    while state:
        prefix = next((p for p in _PREFIXES if all(key.startswith(p) for key in state)), None)
        holders = [p for p in _HOLDERS if any(key.startswith(p) for key in state)]
        if prefix is None and len(holders) == 1:
            prefix = holders[0]
            left_out += tuple(key for key in state if not key.startswith(prefix))
        if prefix is None:
            break
        state = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
    return state, left_out
