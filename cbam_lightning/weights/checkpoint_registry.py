"""Checkpoints by name: the table in ``registry.json``, and the files behind it.

``python -m experiments.shipping.ship`` adds the network of finished runs. To add another file, put it
into ``files/`` or at a URL, and hand ``make_entry`` of it to ``register``.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from cbam_lightning.errors import UsageError, unknown_name
from cbam_lightning.files import atomic_write
from cbam_lightning.weights.checkpoint import load_checkpoint
from cbam_lightning.weights.downloads import cache_folder, fetch, sha256_of
from cbam_lightning.weights.entry import Entry

TABLE = Path(__file__).with_name("registry.json")


def _read_table() -> list[dict[str, Any]]:
    try:
        table = json.loads(TABLE.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        message = f"{TABLE} is no table of checkpoints ({error}); install the package again."
        raise UsageError(message) from None
    if not isinstance(table, list) or not all(isinstance(values, dict) for values in table):
        message = f"{TABLE} is no table of checkpoints: it should be a list of objects."
        raise UsageError(message)
    return table


def _entries() -> dict[str, Entry]:
    known = {f.name for f in fields(Entry)}
    required = {f.name for f in fields(Entry) if (f.default, f.default_factory) == (MISSING, MISSING)}
    entries: dict[str, Entry] = {}
    for values in _read_table():
        if unknown := sorted(set(values) - known):
            raise unknown_name(kind=f"field in {TABLE}", given=unknown[0], allowed=known)
        if missing := sorted(required - set(values)):
            message = f"{TABLE} has a checkpoint without {', '.join(missing)}."
            raise UsageError(message)
        entry = Entry(**values)
        if entry.name in entries:
            message = f"{TABLE} has two checkpoints named {entry.name}."
            raise UsageError(message)
        entries[entry.name] = entry
    return entries


def list_weights(pattern: str = "*") -> list[str]:
    """Return the names of the registered checkpoints, sorted.

    Args:
        pattern: Shell wildcards, for example ``resnet20_*``.
    """
    return sorted(name for name in _entries() if fnmatchcase(name, pattern))


def find(name: str) -> Entry:
    """Return the registered checkpoint of this name.

    Raises:
        UsageError: There is none.
    """
    entries = _entries()
    if name not in entries:
        message = (
            "no checkpoint is registered in this version; give the path of a .safetensors or .ckpt file."
        )
        raise unknown_name("registered checkpoint", name, entries) if entries else UsageError(message)
    return entries[name]


def checkpoint_path(name: str) -> Path:
    """Return the file of a registered checkpoint, downloaded if need be, with its hash checked.

    Raises:
        UsageError: There is no checkpoint of this name.
        OSError: It cannot be downloaded, or the file is not the registered one.
    """
    return verify(find(name))


def verify(entry: Entry) -> Path:
    """Check that the file of a registered checkpoint has the registered hash, and return its path.

    A file that is not here yet is downloaded; one in the cache with another hash is downloaded again.

    Raises:
        OSError: It cannot be downloaded, or the file is not the registered one.
    """
    if entry.url is not None:
        return fetch(entry.url, entry.sha256, cache_folder() / f"{entry.name}.safetensors")
    path = files_folder() / str(entry.file)
    found = sha256_of(path)
    if found != entry.sha256:
        message = f"{path} is damaged: its SHA-256 is {found}, not {entry.sha256}. Install the package again."
        raise OSError(message)
    return path


def files_folder() -> Path:
    """Return the folder of the checkpoints that the package ships, and of their model cards."""
    return TABLE.parent / "files"


def card_path(name: str) -> Path:
    """Return where the model card of a checkpoint is, if it has one."""
    return files_folder() / f"{name}.md"


def register(entry: Entry) -> None:
    """Put a checkpoint into the table, in place of the one of the same name if there is one.

    Raises:
        UsageError: The table as it is cannot be read.
        OSError: It cannot be written; it is unchanged then.
    """
    entries = {**_entries(), entry.name: entry}
    table = [entries[name].to_dict() for name in sorted(entries)]
    with atomic_write(TABLE) as file:
        file.write(f"{json.dumps(table, indent=2)}\n".encode())


def make_entry(
    path: str | Path,
    *,
    licence: str,
    command: str,
    name: str | None = None,
    url: str | None = None,
    seeds: dict[str, float] | None = None,
) -> Entry:
    """Describe a checkpoint for the table; data set and metrics are what its header says.

    Args:
        path: A ``.safetensors`` file of ours.
        licence: Of its values, as an SPDX identifier.
        command: What made it.
        name: What it shall be called; left out, it is the file's name.
        url: Where it will be downloaded from; left out, it lies in the folder ``files`` beside the table.
        seeds: ``test/top1`` of the runs that it was chosen from, by their seeds.

    Raises:
        UsageError: The file is no checkpoint of ours, or its header names no data set.
    """
    path = Path(path)
    header = load_checkpoint(path).header
    if header.dataset is None:
        message = f"{path} does not name its data set, which a registered checkpoint has to."
        raise UsageError(message)
    return Entry(
        name=name or path.stem,
        sha256=sha256_of(path),
        num_bytes=path.stat().st_size,
        licence=licence,
        dataset=header.dataset,
        command=command,
        metrics=dict(header.metrics),
        seeds=seeds or {},
        file=None if url else path.name,
        url=url,
    )
