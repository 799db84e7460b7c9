"""User-defined transforms: applying them to an image and checking what they return."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from torch import Tensor
from torchvision.transforms import v2

from cbam_lightning.data.cropping import EvalTransform
from cbam_lightning.data.image_conversion import NotAnImageError, allowed_images, as_image, described
from cbam_lightning.errors import UsageError
from cbam_lightning.user_code.tracebacks import describe_error

# For jsonargparse: the transforms of torchvision by their bare names, and any class with ``__call__``.
OneTransform: TypeAlias = v2.Transform | Callable[[Any], Any]
# The list comes first: the first type writes the saved configuration, and callables would claim a list.
TransformOption: TypeAlias = list[OneTransform] | OneTransform | None


@dataclass(frozen=True)
class UserTransform:
    """One or more user-defined transforms, applied in order, with a check of the result.

    Attributes:
        option: Option of the command, for error messages.
        steps: The transforms.
        channels: Channels of the images.
        size: Height and width of the result. Square images of another size are resized and centre-cropped.
        any_float: As in ``as_image``.
    """

    option: str
    steps: tuple[Callable[[Any], Any], ...]
    channels: Literal[1, 3]
    size: tuple[int, int]
    any_float: bool = False

    def __call__(self, image: Tensor) -> Tensor:
        """Transform (C, H, W) to (C, *size), uint8 or float32.

        Raises:
            UsageError: A transform raises, or does not return such an image.
        """
        changed = self.apply(image)
        height, width = self.size
        if changed.shape[1:] == self.size:
            return changed
        if height != width:
            raise UsageError(
                f"{self.option} leaves an image of {changed.shape[2]} x {changed.shape[1]} pixels; allowed: "
                f"{width} x {height}, or give the size of the network's input with --data.size_px."
            )
        return EvalTransform(height, height)(changed)

    def apply(self, image: Tensor) -> Tensor:
        """Apply the transforms without cropping to the size.

        Raises:
            UsageError: A transform raises, or does not return an image.
        """
        changed: Any = image
        for step in self.steps:
            try:
                changed = step(changed)
            except Exception as error:
                title, what = self._title(step), describe_error(error)
                raise UsageError(f"{title} raised {what}; its input was {described(changed)}.") from error
        try:
            return as_image(changed, self.channels, any_float=self.any_float)
        except NotAnImageError as error:
            title, allowed = self._title(self.steps[-1]), allowed_images(self.channels)
            raise UsageError(f"{title} returned {error}; allowed: {allowed}.") from error

    def _title(self, step: object) -> str:
        return f"{self.option} {getattr(step, '__name__', type(step).__name__)}"


def as_steps(option: str, value: TransformOption) -> tuple[Callable[[Any], Any], ...] | None:
    """Return the transforms that an option names; ``None`` if it is not set.

    Args:
        option: Name of the option.
        value: Value of the option.

    Raises:
        UsageError: A value is not a transform.
    """
    if value is None:
        return None
    steps: tuple[Any, ...] = tuple(value) if isinstance(value, list | tuple) else (value,)
    for step in steps:
        if isinstance(step, type) or not callable(step):
            what = f"the class {step.__name__}" if isinstance(step, type) else repr(step)
            raise UsageError(f"--data.{option} is {what}; allowed: a callable object, or a list of them.")
    return steps
