"""Modules of which it is known beforehand that attention cannot be inserted after them."""

from __future__ import annotations

import torch
from torch import nn

from cbam_lightning.models.insertion.attended import CHILD, Attended

LIST = "runs its modules in its own way"
_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def unfit_modules(network: nn.Module) -> dict[str, str]:
    """Return why attention cannot follow a module, by the names of such modules."""
    unfit: dict[str, str] = {}
    for name, module in network.named_modules():
        if isinstance(module, _LISTS) or "_orig_mod" in module._modules:  # the second from torch.compile
            unfit[name] = LIST
        elif isinstance(module, (torch.fx.GraphModule, torch.jit.ScriptModule)):
            unfit[name] = f"is a {type(module).__name__}, whose code is fixed"
        elif hasattr(module, CHILD) and not isinstance(module, Attended):
            unfit[name] = f"has an attribute {CHILD!r} of its own"
        if isinstance(module, Attended):
            unfit |= _inside(f"{name}.{CHILD}", module.attention, "is a part of inserted attention")
        if isinstance(module, nn.TransformerEncoderLayer):
            # https://pytorch.org/docs/stable/generated/torch.nn.TransformerEncoderLayer.html: "fast path"
            unfit |= _inside(
                name, module, "is not called in inference, where torch runs the layer as a whole"
            )
            del unfit[name]
    return unfit


def attention_parts(network: nn.Module) -> set[str]:
    """Return the names of the modules inside attention, whose values need not be maps of the network."""
    whole = [(name, module) for name, module in network.named_modules() if hasattr(module, "gate_maps")]
    return {part for name, module in whole for part in _inside(name, module, "") if part != name}


def _inside(name: str, module: nn.Module, reason: str) -> dict[str, str]:
    return {inner: reason for inner, _ in module.named_modules(prefix=name)}
