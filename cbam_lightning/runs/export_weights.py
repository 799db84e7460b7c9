"""From a run to a file to share."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from cbam_lightning.runs.directory import RunDirectory
from cbam_lightning.weights import Header, load_checkpoint, save_checkpoint


def export_weights(source: str, out: str) -> Header:
    """Write the network of a run or a checkpoint as ``.safetensors``.

    Args:
        source: A run's directory, of which the best checkpoint is taken, or a ``.ckpt`` file.
        out: The file to write.

    Returns:
        The header that was written. It holds the metrics of validation, and those of a test of exactly this
        checkpoint if the run has made one.

    Raises:
        UsageError: The source is no run and no checkpoint, or ``out`` has another ending.
        OSError: The file cannot be written; what stood there before is unchanged.
    """
    path = RunDirectory.open(source).best if Path(source).is_dir() else Path(source)
    checkpoint = load_checkpoint(path)
    metrics = {**checkpoint.header.metrics, **_tested(path)}
    header = replace(checkpoint.header, metrics=metrics)
    save_checkpoint(out, checkpoint.state_dict, header)
    return header


def _tested(checkpoint: Path) -> dict[str, float]:
    """Return the run's test results if they belong to this checkpoint."""
    results = RunDirectory(checkpoint.absolute().parent.parent).results
    if not results.is_file():
        return {}
    found = json.loads(results.read_text())
    same = found.get("checkpoint") and Path(found["checkpoint"]).name == checkpoint.name
    return dict(found["metrics"]) if same else {}
