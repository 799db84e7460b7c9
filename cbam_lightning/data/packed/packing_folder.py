"""The output folder of a packing, which one process at a time fills according to one plan."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from cbam_lightning.data.packed.packed_index import PACKED_INDEX
from cbam_lightning.errors import UsageError
from cbam_lightning.files import atomic_write

LOCK_NAME = ".packing"
LOCK_TIMEOUT_S = 10
PLAN_NAME = "unfinished.json"  # exists from before the first shard until after the last index


@contextmanager
def claimed(out: Path, plan: dict[str, Any]) -> Iterator[None]:
    """Claim the output folder for a plan and this process, in a context.

    Args:
        out: New, empty, or with the rest of an earlier attempt at the same plan.
        plan: What decides the content of the shards, apart from that of the files.

    Raises:
        UsageError: The folder holds something else, or another process is packing into it.
    """
    _open_folder(out, plan)
    try:
        # the processes of one that was killed end a little later
        lock = FileLock(out / LOCK_NAME).acquire(timeout=LOCK_TIMEOUT_S)
    except Timeout:
        raise UsageError(f"another process is packing into {out}; wait until it ends, or stop it.") from None
    with lock:
        _open_folder(out, plan)  # the other process may have finished in the meantime
        (out / PACKED_INDEX).unlink(missing_ok=True)
        yield
        (out / LOCK_NAME).unlink(missing_ok=True)
        (out / PLAN_NAME).unlink()


def _open_folder(out: Path, plan: dict[str, Any]) -> None:
    """Begin a folder with this plan, or refuse one that holds something else."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; give a new folder with --out.")
    out.mkdir(parents=True, exist_ok=True)
    if (out / PLAN_NAME).is_file():
        if differing := _differing(out / PLAN_NAME, plan):
            raise UsageError(
                f"{out} holds an unfinished packing of other images or with other options ({differing}); "
                "repeat that one, delete the folder, or give another with --out."
            )
    elif any(out.iterdir()):
        raise UsageError(f"{out} is not empty, and nothing in it is overwritten; give a new one with --out.")
    else:
        with atomic_write(out / PLAN_NAME) as file:
            file.write(json.dumps(plan).encode())


def _differing(path: Path, plan: dict[str, Any]) -> str:
    """Return in which respects the plan in a file is another one; empty if it is the same."""
    try:
        found = dict(json.loads(path.read_text()))
    except (ValueError, TypeError):
        return "its plan is damaged"
    return ", ".join(key for key in plan | found if plan.get(key) != found.get(key))
