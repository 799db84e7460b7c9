"""How to call an installed program from where the user stands."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path


def program(name: str) -> str:
    """Return what to type for a program of this environment: its name if the shell finds it, else its path.

    Args:
        name: For example ``cbam-lightning`` or ``wandb``.
    """
    ours = Path(sys.executable).with_name(name)
    found = shutil.which(name)
    if not ours.exists() or (found and Path(found).absolute() == ours.absolute()):
        return name
    return shlex.quote(os.path.relpath(ours))
