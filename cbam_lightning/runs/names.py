"""The names of runs and experiments: which ones can be folders, and what W&B calls them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from cbam_lightning.errors import UsageError

_LONGEST = 255  # bytes of a name on Linux, characters on macOS and Windows
_ON_WINDOWS = os.name == "nt"
# https://learn.microsoft.com/windows/win32/fileio/naming-a-file
_WINDOWS_FORBIDS = re.compile(r'(con|prn|aux|nul|com\d|lpt\d)(\..*)?|.*[<>:"|?*].*|.*\.', re.IGNORECASE)
# The name of an artifact has the id, that of a table and more: letters, digits, `_`, `.` and `-`, at most 128
# (wandb 0.31)
_LONGEST_ID = 64


def fault_of_folder(name: str) -> str | None:
    """Return why a name cannot be that of one folder of runs; ``None`` if it can."""
    faults = {
        "it is empty": not name.strip(),
        "it stands for another folder": name in (".", ".."),
        "it has a slash": "/" in name or "\\" in name,
        "it has characters that cannot be printed": not name.isprintable(),
        "it starts or ends with a space": name != name.strip(),
        "commands take it for an option": name.startswith("-"),
        # fsspec, through which Lightning saves, reads it as an address, and saves elsewhere
        "with :: it looks like the address of a remote file": "::" in name,
        "Windows forbids it": _ON_WINDOWS and _WINDOWS_FORBIDS.fullmatch(name) is not None,
        f"it is longer than {_LONGEST} bytes": len(name.encode(errors="replace")) > _LONGEST,
    }
    return next((fault for fault, applies in faults.items() if applies), None)


def check_names(root: str, experiment: str, name: str | None = None) -> None:
    """Check the names of a run's folders before anything is made.

    Args:
        root: Folder of all runs.
        experiment: Folder below ``root``, perhaps several.
        name: The run's own folder; ``None``: it gets a name of its own.

    Raises:
        UsageError: Says which name cannot be that of a folder, and why.
    """
    if root.startswith("-") or not root.isprintable() or "::" in root:
        allowed = "a printable path without :: and without - at its start"
        raise UsageError(f"--run.root is {root!r}; allowed: {allowed}.")
    parts = Path(experiment).parts or (experiment,)
    checked = [("experiment", part) for part in parts] + ([] if name is None else [("name", name)])
    for option, part in checked:
        if fault := fault_of_folder(part):
            raise UsageError(
                f"{part!r:.80} cannot be a folder of runs: {fault}. Give another name with --run.{option}."
            )
    path = Path(root).expanduser().joinpath(experiment, name or "")
    for folder in (path, *path.parents):
        if folder.exists() and not folder.is_dir():
            raise UsageError(
                f"{folder} is a file, so no run can be in it; give another --run.name or --run.root."
            )


def wandb_id(text: str) -> str:
    """Return a name with only the characters that W&B allows in ids and artifacts: ``l-ufe`` for ``läufe``.

    Args:
        text: Ends with what makes it unique.
    """
    return re.sub(r"[^A-Za-z0-9_.-]", "-", text)[-_LONGEST_ID:]
