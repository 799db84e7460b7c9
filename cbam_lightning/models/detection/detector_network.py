"""What the detectors share: what they are built with, checks of the input, and frozen parts."""

from __future__ import annotations

import inspect
from collections.abc import Container, Mapping, Sequence
from typing import Any, NamedTuple, Self

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cbam_lightning.errors import UsageError
from cbam_lightning.weights import Header

# torch's own words, https://github.com/pytorch/pytorch/blob/main/torch/nn/functional.py
_ONE_VALUE = "more than 1 value per channel"


class Specification(NamedTuple):
    """What every detector is built with, whatever its kind.

    Attributes:
        num_classes: Number of classes, the background included.
        in_channels: Number of channels of the images.
        attention: Before every prediction head; ``none`` where the attention is in the backbone.
        attention_options: What the attention's class accepts besides ``channels``.
        mean: Per channel, of pixel values in [0, 1]; what images are normalised with.
        std: As ``mean``.
    """

    num_classes: int
    in_channels: int
    attention: str
    attention_options: Mapping[str, Any]
    mean: Sequence[float]
    std: Sequence[float]


class DetectorNetwork(nn.Module):
    """A detector of torchvision, which checks what it is given and keeps frozen parts frozen.

    Attributes:
        backbone: Images to feature maps, without what predicts boxes.
        header: How ``create_detector`` builds it again, for a checkpoint.
        in_channels: Number of channels of the images.
        stages: Names of the modules in each stage of the backbone network, from the images on.
        trainable_stages: How many of them are trained, counted from the last.
        freeze_batch_norm: Whether every BatchNorm keeps its running statistics.
        new_classes: Why the prediction of classes starts anew although there were weights, else ``None``.
    """

    backbone: nn.Module
    header: Header
    in_channels: int
    stages: list[list[str]]
    trainable_stages: int
    freeze_batch_norm: bool = False
    new_classes: str | None = None
    _frozen: tuple[str, ...] = ()

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        """Return the losses in training, else the detections.

        Args:
            images: Each (C, H, W), of any size, with values in [0, 1].
            targets: In training, for each image ``boxes``, (M, 4) as x1, y1, x2, y2 in pixels, and
                ``labels``, (M,) int64 in [1, num_classes); M may be 0.

        Returns:
            In training the losses by name, to be added. Else for each image ``boxes``, (D, 4), ``labels`` and
            ``scores``, (D,), the highest score first.

        Raises:
            UsageError: An image has another number of channels, targets are missing, or there is one image
                where a BatchNorm needs more.
        """
        self._check(images, targets)
        try:
            return super().forward(images, targets)
        except ValueError as error:
            if _ONE_VALUE not in str(error):
                raise
            message = (
                f"a training batch of {len(images)} image has one value per channel where a feature map has "
                "one position, of which a BatchNorm has no statistics. Give batches of 2 or more images on "
                "every device (drop a smaller last one), or freeze_batch_norm=True."
            )
            raise UsageError(message) from error

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all but the frozen stages and BatchNorms, which stay in evaluation mode."""
        super().train(mode)
        for name in self._frozen:
            self.get_submodule(name).eval()
        if self.freeze_batch_norm:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def freeze(self, trainable_stages: int | None, batch_norm: bool, trained: Container[int]) -> None:
        """Stop training of the backbone's first stages, and of BatchNorms.

        A frozen BatchNorm uses its running statistics and does not update them. Its weight and bias are
        frozen, too, if they come from a checkpoint: new ones, such as the weights of 0 at which CBAM's
        spatial gates start, have to be learned. The attention's BatchNorms are treated as all others.

        Args:
            trainable_stages: How many of ``stages`` go on to be trained, counted from the last; None for all.
            batch_norm: Whether every BatchNorm of the detector is frozen.
            trained: The ``id`` of the parameters that come from a checkpoint.

        Raises:
            UsageError: There are fewer stages.
        """
        kept = len(self.stages) if trainable_stages is None else trainable_stages
        if not isinstance(kept, int) or not 0 <= kept <= len(self.stages):
            message = f"trainable_stages is {trainable_stages!r}; allowed: 0 to {len(self.stages)}."
            raise UsageError(message)
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
                message = (
                    f"an image has the shape {tuple(image.shape)}, but this detector takes "
                    f"({self.in_channels}, H, W). Convert the images, or build it with another in_channels."
                )
                raise UsageError(message)
        if self.training and targets is None:
            message = "a detector in training mode needs targets; call eval() for detections."
            raise UsageError(message)


def numbers_of(network_class: type[nn.Module]) -> dict[str, int | float]:
    """Return the arguments of a torchvision detector that are numbers, with their defaults."""
    parameters = inspect.signature(network_class).parameters.values()
    return {p.name: p.default for p in parameters if isinstance(p.default, int | float)}


def check_number(name: str, value: Any, default: float) -> None:
    """Refuse a value for one of ``numbers_of`` that cannot be meant.

    Args:
        name: Of the option.
        value: A whole number of at least 1 where the default is one, else a fraction in [0, 1].
        default: What torchvision has.

    Raises:
        UsageError: Another value.
    """
    if isinstance(default, int):
        fits, allowed = isinstance(value, int) and value >= 1, "a whole number of at least 1"
    else:
        fits, allowed = isinstance(value, int | float) and 0 <= value <= 1, "a number from 0 to 1"
    if name.endswith("positive_fraction"):  # torchvision divides by it
        fits, allowed = fits and value > 0, "a number above 0, up to 1"
    if isinstance(value, bool) or not fits:
        message = f"{name} is {value!r}; give {allowed}."
        raise UsageError(message)
