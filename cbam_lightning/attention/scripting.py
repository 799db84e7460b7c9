"""What ``torch.jit.script`` is told: it reads source code, and knows too little of Python to read ours."""

from __future__ import annotations

from typing import NoReturn

from torch import nn

from cbam_lightning.errors import UsageError


def refuse_scripting(module: nn.Module) -> NoReturn:
    """Raise a ``UsageError``; ``torch.jit.script`` calls it as the method ``__prepare_scriptable__``."""
    raise UsageError(
        f"{type(module).__name__} cannot be compiled with torch.jit.script. Use "
        "torch.export.export(network.eval(), (images,)) or torch.jit.trace(network.eval(), images) instead."
    )
