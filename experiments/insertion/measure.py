"""Measure the costs and benefits of inserting CBAM into a trained network.

Every arm is tested on all 10,000 test images: before fine-tuning, and after its first and last epoch.

    python experiments/insertion/measure.py --seeds 0 1 2
    python experiments/insertion/measure.py --plot

Runs that are in ``results.csv`` are not repeated. The committed file was measured from an earlier checkpoint
of the plain ResNet-20 (10 epochs, test top-1 0.9330) that is no longer shipped. To measure from
``resnet20.fashion_mnist``, which the configurations start from now, remove it first.
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

from cbam_lightning.cli.main import main

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
    same = f"--config {HERE / arm}.yaml --seed_everything {seed} --wandb.enabled false {options}"
    experiment = f"insertion/{arm}-{seed}"
    yield arm, seed, 0, test_top1(same, f"{experiment}-before")
    call(
        f"fit {same} --run.experiment {experiment} --run.test_after_fit false "
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


def accuracies(arm: str) -> list[list[float]]:
    """Return the accuracies of all seeds, a list for each number of epochs."""
    found = [row for row in read() if row["arm"] == arm]
    return [
        [float(row["test_top1"]) for row in found if row["epochs"] == str(epochs)] for epochs in (0, *EPOCHS)
    ]


def table(arms: dict[str, list[list[float]]]) -> str:
    """Return mean, lowest and highest accuracy of every arm as Markdown."""
    heading = ["arm", "before", *(f"after {epochs} epoch{'s' if epochs > 1 else ''}" for epochs in EPOCHS)]
    lines = [heading, ["---"] * len(heading)]
    for arm, values in arms.items():
        lines.append([ARMS[arm], *(f"{mean(v):.4f} ({min(v):.4f} to {max(v):.4f})" for v in values)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plot(arms: dict[str, list[list[float]]]) -> None:
    """Draw mean and spread of every arm over the epochs: whole, and without what fell far below."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    fig, panels = plt.subplots(ncols=2, figsize=(10, 4))
    for axes in panels:
        for arm, values in arms.items():
            means = [mean(v) for v in values]
            spread = [[mean(v) - min(v) for v in values], [max(v) - mean(v) for v in values]]
            axes.errorbar((0, *EPOCHS), means, yerr=spread, marker="o", capsize=4, label=ARMS[arm])
        axes.set(xlabel="epochs of fine-tuning", ylabel="test top-1", xticks=(0, *EPOCHS))
        axes.grid(alpha=0.3)
    trained = [accuracy for values in arms.values() for v in values[1:] for accuracy in v]
    panels[1].set_ylim(min(trained) - 0.001, max(trained) + 0.001)
    panels[0].legend()
    fig.suptitle("CBAM inserted into a trained ResNet-20, Fashion-MNIST")
    fig.tight_layout()
    fig.savefig(HERE / "results.png", dpi=120)


def run() -> None:
    """Measure what is missing, or draw what is there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--options", default="", help="further options of `cbam-lightning fit` and `test`")
    parser.add_argument("--plot", action="store_true", help="draw results.png and print the table")
    given = parser.parse_args()
    if given.plot:
        measured = {arm: accuracies(arm) for arm in ARMS if all(accuracies(arm))}
        plot(measured)
        print(table(measured))
        return
    done = {(row["arm"], int(row["seed"])) for row in read() if int(row["epochs"]) == EPOCHS[-1]}
    for seed in given.seeds:
        for arm in given.arms:
            if (arm, seed) not in done:
                for row in list(measure(arm, seed, given.options)):
                    append(row)


if __name__ == "__main__":
    run()
