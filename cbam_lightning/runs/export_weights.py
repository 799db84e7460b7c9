"""Writing the weights of a run as a file to share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cbam_lightning.runs.directory import RunDirectory
from cbam_lightning.runs.run_files import numbers, read_results
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
    tested = read_results(RunDirectory(checkpoint.absolute().parent.parent))
    same = Path(str(tested.get("checkpoint"))).name == checkpoint.name
    return numbers(tested["metrics"]) if same else {}
