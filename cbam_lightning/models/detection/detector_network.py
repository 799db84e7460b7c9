"""Base class of the detectors: their specification, checks of the input, and frozen parts."""

from __future__ import annotations

import inspect
from collections.abc import Container, Mapping, Sequence
from typing import Any, NamedTuple, Self

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cbam_lightning.checks import is_finite, is_whole
from cbam_lightning.errors import UsageError
from cbam_lightning.weights import Header

# From torch's message, https://github.com/pytorch/pytorch/blob/main/torch/nn/functional.py
_ONE_VALUE = "more than 1 value per channel"


class Specification(NamedTuple):
    """Arguments that every kind of detector is built with.

    Attributes:
        num_classes: Number of classes, including the background.
        in_channels: Number of channels of the images.
        attention: Attention before every prediction head; ``none`` if the attention is in the backbone.
        attention_options: Arguments of the attention's class besides ``channels``.
        mean: Mean per channel of pixel values in [0, 1], with which images are normalised.
        std: Standard deviation per channel, likewise.
    """

    num_classes: int
    in_channels: int
    attention: str
    attention_options: Mapping[str, Any]
    mean: Sequence[float]
    std: Sequence[float]


class DetectorNetwork(nn.Module):
    """A detector of torchvision that checks its inputs and keeps frozen parts frozen.

    Args:
        backbone: The module from images to feature maps.
        stages: Names of the modules in each stage of the backbone, starting at the images.
        spec: The arguments of every detector.
        parts: Modules and numbers for torchvision's class.

    Attributes:
        header: Header for a checkpoint, from which ``create_detector`` rebuilds the detector.
        in_channels: Number of channels of the images.
        trainable_stages: Number of trained stages, counted from the last.
        freeze_batch_norm: Whether every BatchNorm keeps its running statistics.
        new_classes: Why the class predictor is new although there are weights, else ``None``.
    """

    backbone: nn.Module
    header: Header
    trainable_stages: int
    freeze_batch_norm: bool = False
    new_classes: str | None = None
    _frozen: tuple[str, ...] = ()

    def __init__(
        self, backbone: nn.Module, stages: list[list[str]], spec: Specification, **parts: Any
    ) -> None:
        super().__init__(backbone, image_mean=list(spec.mean), image_std=list(spec.std), **parts)
        self.in_channels = spec.in_channels
        self.stages = stages

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        """Return the losses in training, otherwise the detections.

        Args:
            images: Images (C, H, W) of any size, with values in [0, 1].
            targets: In training, for each image ``boxes``, (M, 4) as x1, y1, x2, y2 in pixels, and
                ``labels``, (M,) int64 in [1, num_classes); M may be 0.

        Returns:
            In training, the losses by name, to be summed. Otherwise for each image ``boxes``, (D, 4),
            ``labels`` and ``scores``, (D,), by descending score.

        Raises:
            UsageError: An image has another number of channels, targets are missing, or a BatchNorm needs
                more than one image.
        """
        self._check(images, targets)
        try:
            return super().forward(images, targets)
        except ValueError as error:
            if _ONE_VALUE not in str(error):
                raise
            raise UsageError(
                f"in a training batch of {len(images)} image, a feature map of one position has one value "
                "per channel, too few for the statistics of a BatchNorm. Use batches of 2 or more images per "
                "device (drop a smaller last batch), or freeze_batch_norm=True."
            ) from error

    def train(self, mode: bool = True) -> Self:
        """Set the mode; frozen stages and BatchNorms stay in evaluation mode."""
        super().train(mode)
        for name in self._frozen:
            self.get_submodule(name).eval()
        if self.freeze_batch_norm:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def freeze(self, trainable_stages: int | None, batch_norm: bool, trained: Container[int]) -> None:
        """Freeze the backbone's first stages, and BatchNorms.

        A frozen BatchNorm uses its running statistics and does not update them. Its weight and bias are only
        frozen if they come from a checkpoint: new ones, such as the weights of CBAM's spatial gates, which
        start at 0, have to be learned. This includes the BatchNorms of attention.

        Args:
            trainable_stages: Number of ``stages`` that stay trainable, counted from the last; ``None``: all.
            batch_norm: Whether to freeze every BatchNorm of the detector.
            trained: The ``id`` of every parameter whose value comes from a checkpoint.

        Raises:
            UsageError: There are fewer stages.
        """
        kept = len(self.stages) if trainable_stages is None else trainable_stages
        if not is_whole(kept) or not 0 <= kept <= len(self.stages):
            raise UsageError(f"trainable_stages is {trainable_stages!r}; allowed: 0 to {len(self.stages)}.")
        self._frozen = tuple(name for stage in self.stages[: len(self.stages) - kept] for name in stage)
        self.trainable_stages, self.freeze_batch_norm = kept, batch_norm
        for name in self._frozen:
            self.get_submodule(name).requires_grad_(False)
        for module in self.modules():
            if batch_norm and isinstance(module, _BatchNorm):
                for parameter in module.parameters():
                    parameter.requires_grad_(parameter.requires_grad and id(parameter) not in trained)
        self.train(self.training)

    def _check(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None) -> None:
        for image in images:
            if image.ndim != 3 or image.shape[0] != self.in_channels:
                raise UsageError(
                    f"an image has the shape {tuple(image.shape)}, but this detector takes "
                    f"({self.in_channels}, H, W). Convert the images, or change the detector's in_channels."
                )
        if self.training and targets is None:
            raise UsageError("a detector in training mode needs targets; call eval() for detections.")


def numbers_of(network_class: type[nn.Module]) -> dict[str, int | float]:
    """Return the numeric arguments of a torchvision detector, with their defaults."""
    parameters = inspect.signature(network_class).parameters.values()
    return {p.name: p.default for p in parameters if isinstance(p.default, int | float)}


def check_number(name: str, value: Any, default: float) -> None:
    """Refuse an invalid value for one of ``numbers_of``.

    Args:
        name: Name of the option.
        value: A whole number of at least 1 if the default is a whole number, else a fraction in [0, 1].
        default: torchvision's default.

    Raises:
        UsageError: The value is out of range.
    """
    if isinstance(default, int):
        fits, allowed = is_whole(value) and value >= 1, "a whole number of at least 1"
    else:
        fits, allowed = is_finite(value) and 0 <= value <= 1, "a number from 0 to 1"
    if name.endswith("positive_fraction"):  # torchvision divides by it
        fits, allowed = fits and value > 0, "a number above 0, up to 1"
    if not fits:
        raise UsageError(f"{name} is {value!r}; give {allowed}.")
