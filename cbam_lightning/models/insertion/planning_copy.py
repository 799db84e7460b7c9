"""A copy of a network to try things on: without contents, where possible, and without the user's hooks."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cbam_lightning.errors import UsageError


class _CopyTensors(TorchFunctionMode):
    """Decides how ``copy.deepcopy`` copies tensors, also those that are no parameters or buffers.

    Args:
        on_meta: Keep only shape and dtype (https://pytorch.org/docs/stable/meta.html).
    """

    def __init__(self, on_meta: bool) -> None:
        super().__init__()
        self._on_meta = on_meta

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.__deepcopy__:
            tensor, memo = args
            # not Tensor.__deepcopy__, which refuses what torch.nn.utils.weight_norm keeps: computed tensors
            if id(tensor) not in memo:
                memo[id(tensor)] = self._copied(tensor.detach())
            return memo[id(tensor)]
        if func is torch._C.TensorBase.clone:  # by which nn.Parameter copies itself
            return self._copied(args[0])
        return func(*args, **(kwargs or {}))

    def _copied(self, tensor: Tensor) -> Tensor:
        with torch._C.DisableTorchFunction():
            return tensor.to("meta") if self._on_meta else tensor.clone()


def planning_copy(network: nn.Module, device: torch.device) -> nn.Module:
    """Copy a network in evaluation mode, without hooks.

    Args:
        network: Stays as it is.
        device: The network's own, or ``meta``: a copy without contents takes almost no time and memory.

    Raises:
        UsageError: The network cannot be copied.
    """
    try:
        with _CopyTensors(device.type == "meta"), torch.no_grad():
            copied = copy.deepcopy(network)
    except Exception as error:  # what the user's attributes raise
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UsageError(
            f"{type(network).__name__} cannot be copied to find the insertion points: {reason}. "
            "Insert attention before giving the network what cannot be copied."
        ) from error
    for module in copied.modules():
        # Not eval(): a network may override it, for example to keep BatchNorms frozen.
        module.training = False
        for name, hooks in vars(module).items():
            if name.endswith("_hooks") and isinstance(hooks, dict):
                hooks.clear()
    return copied


@contextmanager
def trying(device: torch.device) -> Iterator[None]:
    """Return a context to run a copy in: no gradients, no warnings, the random numbers as they were.

    Tensors that the network creates follow its device, as users make them do for a GPU.
    """
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad(), torch.random.fork_rng():
        warnings.simplefilter("ignore")  # the network's own, which it gives when it is used
        with device:
            yield
