"""Reading what W&B recorded, with its own reader."""

import json
import subprocess
import sys

WANDB = [sys.executable, "-m", "wandb"]


def read_back(run):
    """Return the folder and the records of the one recording of a run that is offline."""
    (folder,) = (run / "wandb").glob("offline-run-*")
    command = [*WANDB, "leet", "inspect", "--json", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return folder, [json.loads(line) for line in done.stdout.splitlines()]


def points(records):
    """Return every logged point, without its time and the random names that W&B gives to tables."""
    found = [record["history"]["item"] for record in records if "history" in record]
    return [{key: value for key, value in point.items() if not _is_random(key)} for point in found]


def _is_random(key):
    return key in ("_timestamp", "_runtime") or key.endswith("artifact_path")


def history(records):
    """Return {metric: [values]} of every logged point."""
    found = {}
    for point in points(records):
        for key, value in point.items():
            found.setdefault(key, []).append(value)
    return found


def config(records):
    """Return everything sent as configuration."""
    found = {}
    for record in records:
        found |= record.get("config", {}).get("update", {})
    return found
