"""The main job as a user runs it, whole: minutes, so `make test-all` only."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

ROOT = Path(__file__).parents[2]


def run(command):
    words = [sys.executable, "-m", "cbam_lightning", *shlex.split(command)[1:]]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def newest_results():
    path = max(Path("runs").rglob("results.json"), key=lambda p: p.stat().st_mtime)
    return json.loads(path.read_text())["metrics"]


def write_digits(root):
    """Write scikit-learn's 1,797 scanned digits as PNG files, one folder a class."""
    digits = load_digits()
    for i, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        folder = root / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 255 / 16).astype(np.uint8)).save(folder / f"{i:04d}.png")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_train_evaluate_share_and_fine_tune(tmp_path):
    printed = run(f"cbam-lightning fit --config {ROOT}/experiments/fashion_mnist/resnet20_cbam.yaml")
    commands = [line.strip() for line in printed.splitlines() if re.match(r"\s+\S*cbam-lightning ", line)]
    evaluate, export, evaluate_export, fine_tune = commands
    trained = newest_results()
    assert trained["test/top1"] >= 0.88
    run(evaluate)
    assert newest_results() == trained
    run(export)
    run(evaluate_export)
    assert newest_results() == trained

    write_digits(tmp_path / "digits")
    run(fine_tune.replace("YOUR_FOLDER", "digits"))
    assert newest_results()["test/top1"] >= 0.97
