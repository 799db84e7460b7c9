"""Measure what inserting CBAM into a trained network costs and brings.

Every arm is tested before any step and after the first and the last epoch of its fine-tuning, on all 10,000
test images. What is already in ``results.csv`` is not measured again.

    python experiments/insertion/measure.py --seeds 0 1 2
    python experiments/insertion/measure.py --plot
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

from cbam_lightning.cli import main

HERE = Path(__file__).parent
RESULTS = HERE / "results.csv"
COLUMNS = ("arm", "seed", "epochs", "test_top1")
ARMS = {
    "resnet20_cbam_identity": "CBAM, identity gate",
    "resnet20_cbam_sigmoid": "CBAM, sigmoid gate",
    "resnet20": "no attention",
}
EPOCHS = (1, 3)


def call(command: str) -> None:
    """Run the command, and stop where it fails."""
    code = main(shlex.split(command))
    if code:
        raise SystemExit(code)


def test_top1(options: str, experiment: str) -> float:
    """Return the accuracy on the test images, in [0, 1]."""
    call(f"test {options} --run.experiment {experiment}")
    newest = max(Path("runs", experiment).iterdir())
    return float(json.loads((newest / "results.json").read_text())["metrics"]["test/top1"])


def measure(arm: str, seed: int, options: str) -> Iterator[tuple[str, int, int, float]]:
    """Yield (arm, seed, epochs of fine-tuning, test accuracy)."""
    same = f"--config {HERE / arm}.yaml --seed_everything {seed} --wandb.enabled false"
    experiment = f"insertion/{arm}-{seed}"
    yield arm, seed, 0, test_top1(same, f"{experiment}-before")
    call(
        f"fit {same} {options} --run.experiment {experiment} --run.test_after_fit false "
        "--checkpoint.filename {epoch} --checkpoint.save_top_k -1"
    )
    run = max(Path("runs", experiment).iterdir())
    for epochs in EPOCHS:
        checkpoint = run / "checkpoints" / f"epoch={epochs - 1}.ckpt"
        yield arm, seed, epochs, test_top1(f"{same} --ckpt_path {checkpoint}", f"{experiment}-after{epochs}")


def read() -> list[dict[str, str]]:
    """Return the rows of ``results.csv``."""
    if not RESULTS.is_file():
        return []
    with RESULTS.open(newline="") as file:
        return list(csv.DictReader(file))


def append(row: tuple[str, int, int, float]) -> None:
    """Add a row; one call is one write, so that several processes may measure side by side."""
    with RESULTS.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if not file.tell():
            writer.writerow(COLUMNS)
        writer.writerow((*row[:-1], f"{row[-1]:.4f}"))


def plot() -> None:
    """Draw mean and spread of every arm over the epochs, and print them as a Markdown table."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    rows = read()
    fig, axes = plt.subplots(figsize=(6, 4))
    print("| arm | before | after 1 epoch | after 3 epochs |\n|---|---|---|---|")
    for arm, label in ARMS.items():
        values = [
            [float(row["test_top1"]) for row in rows if row["arm"] == arm and row["epochs"] == str(epochs)]
            for epochs in (0, *EPOCHS)
        ]
        means = [mean(found) for found in values]
        lower = [min(found) for found in values]
        upper = [max(found) for found in values]
        spread = [
            [m - low for m, low in zip(means, lower, strict=True)],
            [high - m for m, high in zip(means, upper, strict=True)],
        ]
        axes.errorbar((0, *EPOCHS), means, yerr=spread, marker="o", capsize=4, label=label)
        columns = zip(means, lower, upper, strict=True)
        cells = [f"{m:.4f} ({low:.4f} to {high:.4f})" for m, low, high in columns]
        print(f"| {label} | {' | '.join(cells)} |")
    axes.set(xlabel="epochs of fine-tuning", ylabel="test top-1", xticks=(0, *EPOCHS))
    axes.set_title("CBAM inserted into a trained ResNet-20, Fashion-MNIST")
    axes.legend()
    axes.grid(alpha=0.3)
    fig.tight_layout()
    fig.savefig(HERE / "results.png", dpi=120)


def run() -> None:
    """Measure what is missing, or draw what is there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--options", default="", help="further options of `cbam-lightning fit`")
    parser.add_argument("--plot", action="store_true", help="draw results.png and print the table")
    given = parser.parse_args()
    if given.plot:
        plot()
        return
    done = {(row["arm"], int(row["seed"])) for row in read() if int(row["epochs"]) == EPOCHS[-1]}
    for seed in given.seeds:
        for arm in given.arms:
            if (arm, seed) not in done:
                for row in list(measure(arm, seed, given.options)):
                    append(row)


if __name__ == "__main__":
    run()
