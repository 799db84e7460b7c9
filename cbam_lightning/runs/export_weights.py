"""Writing the weights of a run as a file to share."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from cbam_lightning.runs.directory import RunDirectory
from cbam_lightning.weights import Header, load_checkpoint, save_checkpoint


def export_weights(source: str, out: str) -> Header:
    """Write the network of a run or a checkpoint as ``.safetensors``.

    Args:
        source: A ``.ckpt`` file, or a run's directory for its best checkpoint.
        out: The file to write.

    Returns:
        The header of the file. It has the metrics of validation, and those of a test if the run has tested
        exactly this checkpoint.

    Raises:
        UsageError: The source is neither a run nor a checkpoint, or ``out`` has another suffix.
        OSError: The file cannot be written; an existing file stays unchanged.
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
    tested = json.loads(results.read_text())
    same = tested.get("checkpoint") and Path(tested["checkpoint"]).name == checkpoint.name
    return dict(tested["metrics"]) if same else {}
