"""Measures the accuracy that a checkpoint states again, and compares the numbers of correct images.

Two accuracies can be measured again, both on Fashion-MNIST: ``test/top1`` on its 10,000 test images, if they
are on this machine, and ``embedded/top1`` on the 2,000 of them that come with this package.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import nn
from tqdm import tqdm

from cbam_lightning.data import FashionMNIST
from cbam_lightning.errors import UsageError
from cbam_lightning.models.factory import rebuild
from cbam_lightning.models.pretrained import open_checkpoint
from cbam_lightning.weights import Checkpoint, Header, list_weights, load_into
from cbam_lightning.weights.checkpoint_registry import find

Source = Literal["embedded", "full"]
SOURCES: dict[str, Source] = {"test/top1": "full", "embedded/top1": "embedded"}
# Several times the difference between a ResNet-20's logits for other memory layouts and batch sizes.
TIE = 1e-4
_ROUNDING = 0.01  # images; an accuracy is stored in float32
_BATCH_SIZE = 100  # the feature maps of more images leave the cache, which takes 1.5 times as long


class Measured(NamedTuple):
    """Numbers of correctly classified images.

    Attributes:
        right: Number of correctly classified images of each class.
        total: Number of images of each class.
        ties: Number of images, over all classes, whose two largest logits are less than ``TIE`` apart. Only
            these may be classified differently on another processor, because of rounding.
    """

    right: tuple[int, ...]
    total: tuple[int, ...]
    ties: int

    @property
    def top1(self) -> float:
        """The accuracy."""
        return sum(self.right) / sum(self.total)

    def __str__(self) -> str:
        return f"{self.top1:.4f} ({sum(self.right)} of {sum(self.total)})"


def verify_all(sources: Sequence[str]) -> Iterator[str]:
    """Verify all checkpoints, even if one fails.

    Args:
        sources: Names of registered checkpoints, or files.

    Yields:
        A line for each checkpoint that passes.

    Raises:
        UsageError: There is no such checkpoint, or a file is not a checkpoint of this package.
        OSError: At the end, if a file is not the registered one or an accuracy is not the stated one.
    """
    failures = []
    for source in sources:
        try:
            yield f"{source}: {verify(source)}"
        except OSError as error:
            failures.append(str(error))
    if failures:
        raise OSError(f"{len(failures)} of {len(sources)} checkpoints failed: {' '.join(failures)}")


def verify(source: str) -> str:
    """Load a checkpoint, check that all values fit its network, and measure its stated accuracies again.

    The numbers of correct images have to be equal. Machines may only differ where two classes tie up to
    rounding: a difference of at most as many images as there are ties passes, and is reported.

    Args:
        source: A registered checkpoint, whose entry states the accuracies, or a file, whose header does.

    Returns:
        The result in one line.

    Raises:
        UsageError: There is no such checkpoint, or the file is not a checkpoint of this package.
        OSError: The file is not the registered one, or an accuracy is not the stated one.
    """
    checkpoint = open_checkpoint(source)
    network = _fitting(checkpoint, source)
    entry = find(source) if source in list_weights() else None
    stated = _measurable(checkpoint.header, entry.metrics if entry else checkpoint.header.metrics)
    found = ["whole, and every value fits its network"]
    wrong: list[str] = []
    for name, accuracy in stated.items():
        if not FashionMNIST(source=SOURCES[name]).available:
            found.append(f"{name} not measured, since the full Fashion-MNIST is not on this machine")
            continue
        measured = measure(network, checkpoint.header, SOURCES[name], f"{source}, {name}")
        passes, text = compare(accuracy, measured)
        (found if passes else wrong).append(f"{name} {text}")
    if wrong:
        raise OSError(f"{source} is not what it states: {'; '.join(wrong)}.")
    if not stated:
        found.append("no accuracy measured, since none is stated for images that come with this package")
    return "; ".join(found)


def _fitting(checkpoint: Checkpoint, source: str) -> nn.Module:
    network = rebuild(checkpoint, source)
    # building a network may replace its classifier, but not here
    report = load_into(network, checkpoint.state_dict, source=source)
    if faults := report.faults(head=""):
        raise UsageError(f"{source} does not fit the network of its own header: {', '.join(faults[:4])}.")
    return network


def _measurable(header: Header, metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the stated accuracies that can be measured again.

    A header's ``test/top1`` alone does not say on how many images it was measured. If it also has
    ``embedded/top1``, both were measured by this package.
    """
    data = FashionMNIST
    facts = (header.dataset, header.in_channels, header.size_px, header.class_names)
    same = facts == (data.dataset_name, data.in_channels, data.size_px, data.class_names)
    measurable = same and header.mean and header.std and "embedded/top1" in metrics
    return {name: metrics[name] for name in SOURCES if name in metrics} if measurable else {}


@torch.inference_mode()
def measure(network: nn.Module, header: Header, source: Source, description: str = "testing") -> Measured:
    """Count the correctly classified test images of Fashion-MNIST.

    Args:
        network: Takes normalised images; is moved to the accelerator, if there is one.
        header: Contains mean and standard deviation for the normalisation.
        source: ``full`` for all 10,000 images, ``embedded`` for the 2,000 that come with this package.
        description: Label of the progress bar.

    Raises:
        UsageError: The images are missing or damaged.
    """
    data = FashionMNIST(source=source, batch_size=_BATCH_SIZE)
    data.mean, data.std = header.mean or data.mean, header.std or data.std
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    device = accelerator or torch.device("cpu")
    network = network.to(device).eval()
    right, total = (torch.zeros(data.num_classes, dtype=torch.int64) for _ in range(2))
    ties = 0
    bar = tqdm(data.test_dataloader(), desc=description, unit="batch", leave=False, disable=None)
    # TensorFloat-32 rounds to ten bits, so many more images would tie
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for batch in bar:
            moved = batch._replace(images=batch.images.to(device))
            logits = network(data.on_after_batch_transfer(moved, 0).images).cpu()
            right += torch.bincount(batch.labels[logits.argmax(1) == batch.labels], minlength=len(right))
            total += torch.bincount(batch.labels, minlength=len(total))
            best = logits.topk(2).values
            ties += int((best[:, 0] - best[:, 1] < TIE).sum())
    return Measured(tuple(right.tolist()), tuple(total.tolist()), ties)


def compare(stated: float, measured: Measured) -> tuple[bool, str]:
    """Compare an accuracy with the stated one.

    Args:
        stated: A fraction.
        measured: The result on the same images.

    Returns:
        Whether the difference is zero or at most the number of ties, and a short description.
    """
    count = stated * sum(measured.total)
    off = abs(count - sum(measured.right))
    if off < _ROUNDING:
        return True, f"{measured}, as stated"
    text = f"is {measured}, stated is {stated:.6g} ({count:.6g}), and {measured.ties} tie up to rounding"
    return off < measured.ties + _ROUNDING, text
