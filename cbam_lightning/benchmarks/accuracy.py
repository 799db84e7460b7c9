"""Measure once more the accuracy that a checkpoint states, and compare it by the image.

Two accuracies can be measured again, both of Fashion-MNIST: ``test/top1`` on its 10,000 test images, where
they are on this machine, and ``embedded/top1`` on the 2,000 of them that come with this package, anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from cbam_lightning.data import FashionMNIST
from cbam_lightning.data.batch import Batch
from cbam_lightning.errors import UsageError
from cbam_lightning.models import open_checkpoint
from cbam_lightning.models.factory import rebuild
from cbam_lightning.weights import Checkpoint, Header, list_weights, load_into
from cbam_lightning.weights.checkpoint_registry import find

Source = Literal["embedded", "full"]
SOURCES: dict[str, Source] = {"test/top1": "full", "embedded/top1": "embedded"}
# Several times what the logits of a ResNet-20 differ by between memory layouts and sizes of the batch.
TIE = 1e-4
_ROUNDING = 0.01  # images; an accuracy is stored in float32
_BATCH_SIZE = 100  # a feature map of more images leaves the cache, which takes half as long again


class Measured(NamedTuple):
    """Which images a network names rightly.

    Attributes:
        right: Of each class, how many.
        total: Of each class, how many there are.
        ties: Images whose two largest logits are less than ``TIE`` apart, over all classes: another
            processor's rounding may answer these, and only these, in another way.
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
    """Verify checkpoints, all of them even if one fails.

    Args:
        sources: Names of registered checkpoints, or files.

    Yields:
        A line for each that passes.

    Raises:
        UsageError: There is no such checkpoint, or a file is no checkpoint of ours.
        OSError: At the end, if files are not the registered ones or an accuracy is not the stated one.
    """
    failures = []
    for source in sources:
        try:
            yield f"{source}: {verify(source)}"
        except OSError as error:
            failures.append(str(error))
    if failures:
        message = f"{len(failures)} of {len(sources)} checkpoints failed: {' '.join(failures)}"
        raise OSError(message)


def verify(source: str) -> str:
    """Load a checkpoint, hold every value against its network, and measure its stated accuracies again.

    Accuracies are numbers of images, and these have to be equal. Only where two classes tie up to rounding
    may a machine count otherwise than that of the statement: a difference of no more images than there are
    ties passes, and the line says so.

    Args:
        source: A registered checkpoint, whose entry states the accuracies, or a file, whose header does.

    Returns:
        What was found, in one line.

    Raises:
        UsageError: There is no such checkpoint, or the file is no checkpoint of ours.
        OSError: It is not the registered file, or an accuracy is not the stated one.
    """
    checkpoint = open_checkpoint(source)
    network = _fitting(checkpoint, source)
    entry = find(source) if source in list_weights() else None
    stated = _measurable(checkpoint.header, entry.metrics if entry else checkpoint.header.metrics)
    found = ["whole, and every value fits its network"]
    wrong: list[str] = []
    for name, figure in stated.items():
        if not FashionMNIST(source=SOURCES[name]).available:
            found.append(f"{name} not measured, since the full Fashion-MNIST is not on this machine")
            continue
        measured = measure(network, checkpoint.header, SOURCES[name], f"{source}, {name}")
        passes, text = compare(figure, measured)
        (found if passes else wrong).append(f"{name} {text}")
    if wrong:
        message = f"{source} is not what it states: {'; '.join(wrong)}."
        raise OSError(message)
    if not stated:
        found.append("no accuracy measured, since none is stated on images that come with this package")
    return "; ".join(found)


def _fitting(checkpoint: Checkpoint, source: str) -> nn.Module:
    network = rebuild(checkpoint, source)
    # a classifier may start anew when a network is built, but not here
    report = load_into(network, checkpoint.state_dict, source=source)
    if faults := report.faults(head=""):
        message = f"{source} does not fit the network of its own header: {', '.join(faults[:4])}."
        raise UsageError(message)
    return network


def _measurable(header: Header, metrics: Mapping[str, float]) -> dict[str, float]:
    """Return what can be measured again of the stated accuracies.

    A header's ``test/top1`` alone does not say on how many images it was measured; where ``embedded/top1``
    stands beside it, both were measured here.
    """
    theirs = (header.dataset, header.in_channels, header.size_px, header.class_names)
    ours = (
        FashionMNIST.dataset_name,
        FashionMNIST.in_channels,
        FashionMNIST.size_px,
        FashionMNIST.class_names,
    )
    known = theirs == ours and header.mean and header.std and "embedded/top1" in metrics
    return {name: metrics[name] for name in SOURCES if name in metrics} if known else {}


@torch.inference_mode()
def measure(network: nn.Module, header: Header, source: Source, description: str = "testing") -> Measured:
    """Count which test images of Fashion-MNIST a network names rightly.

    Args:
        network: For normalised images; it is moved to the accelerator, if there is one.
        header: Says how to normalise the images.
        source: ``full`` for all 10,000, ``embedded`` for the 2,000 that come with this package.
        description: What to call it at the progress bar.

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
    # TensorFloat-32 rounds to ten bits, by which many more images would tie
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for batch in bar:
            logits = _logits(network, data, batch, device)
            right += torch.bincount(batch.labels[logits.argmax(1) == batch.labels], minlength=len(right))
            total += torch.bincount(batch.labels, minlength=len(total))
            best = logits.topk(2).values
            ties += int((best[:, 0] - best[:, 1] < TIE).sum())
    return Measured(tuple(right.tolist()), tuple(total.tolist()), ties)


def _logits(network: nn.Module, data: FashionMNIST, batch: Batch, device: torch.device) -> Tensor:
    moved = batch._replace(images=batch.images.to(device))
    logits: Tensor = network(data.on_after_batch_transfer(moved, 0).images)
    return logits.cpu()


def compare(stated: float, measured: Measured) -> tuple[bool, str]:
    """Hold an accuracy against the one that was stated.

    Args:
        stated: As a fraction.
        measured: Of the same images.

    Returns:
        Whether the difference is none, or no more images than tie; and what was found, in a few words.
    """
    count = stated * sum(measured.total)
    off = abs(count - sum(measured.right))
    if off < _ROUNDING:
        return True, f"{measured}, as stated"
    text = f"is {measured}, stated is {stated:.6g} ({count:.6g}), and {measured.ties} tie up to rounding"
    return off < measured.ties + _ROUNDING, text
