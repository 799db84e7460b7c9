"""``cbam-lightning new``: a small project to start from."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

from cbam_lightning.errors import UsageError

_TEMPLATE = Path(__file__).parent / "project"
_ENDINGS = (".md", ".py", ".yaml")


def new(folder: Annotated[Path, "DIR"]) -> None:
    """Write a small project of your own to start from.

    It runs as it is: an attention module, a task with its own loss, a data set, an experiment, a study, tests
    and a README.

    Args:
        folder: A new or empty folder.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not an empty folder; nothing is overwritten. Give another name.")
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(path for path in _TEMPLATE.iterdir() if path.suffix in _ENDINGS):
        (folder / path.name).write_bytes(path.read_bytes())
    print(f"Written: {folder}. Next: cd {shlex.quote(str(folder))} and read README.md")
