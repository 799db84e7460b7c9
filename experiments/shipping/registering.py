"""Add entries to the table of registered checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

from cbam_lightning.errors import UsageError
from cbam_lightning.files import atomic_write
from cbam_lightning.weights import checkpoint_registry, load_checkpoint
from cbam_lightning.weights.checkpoint_registry import sha256_of
from cbam_lightning.weights.entry import Entry


def register(entry: Entry) -> None:
    """Add a checkpoint to the table, or replace the one of the same name.

    Raises:
        UsageError: The table cannot be read.
        OSError: The table cannot be written; it is unchanged.
    """
    entries = {**checkpoint_registry.entries(), entry.name: entry}
    table = [entries[name].to_dict() for name in sorted(entries)]
    with atomic_write(checkpoint_registry.TABLE) as file:
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
    """Describe a checkpoint for the table; its header gives the data set and the metrics.

    Args:
        path: A ``.safetensors`` file with our header.
        licence: Licence of its values, as an SPDX identifier.
        command: The command that produced it.
        name: Name of the checkpoint. Default: the name of the file.
        url: Address to download it from. Default: it is in the folder ``files`` next to the table.
        seeds: ``test/top1`` of the runs from which it was chosen, by seed.

    Raises:
        UsageError: The file has no header of ours, or its header does not name a data set.
    """
    path = Path(path)
    header = load_checkpoint(path).header
    if header.dataset is None:
        raise UsageError(f"{path} does not name its data set, which a registered checkpoint has to.")
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
