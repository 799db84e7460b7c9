"""How to call an installed program from the current folder."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path


def program(name: str) -> str:
    """Return the command for a program of this environment: its name if the shell finds it, else its path.

    Args:
        name: For example ``cbam-lightning`` or ``wandb``.
    """
    path = Path(sys.executable).with_name(name)
    on_path = shutil.which(name)
    if not path.exists() or (on_path and Path(on_path).absolute() == path.absolute()):
        return name
    return shlex.quote(os.path.relpath(path))


def resume_command(run: str | Path) -> str:
    """Return the command that continues a run, from its directory."""
    return f"{program('cbam-lightning')} resume {shlex.quote(str(run))}"
