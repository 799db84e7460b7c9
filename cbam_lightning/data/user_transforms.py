"""Transforms of the user's on our images: what goes in, and what may come out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from torch import Tensor
from torchvision.transforms import v2

from cbam_lightning.data.cropping import EvalTransform
from cbam_lightning.data.image_conversion import NotAnImageError, allowed_images, as_image
from cbam_lightning.errors import UsageError
from cbam_lightning.user_code.tracebacks import describe_error

# For jsonargparse: the transforms of torchvision by their bare names, and any class with ``__call__``.
OneTransform: TypeAlias = v2.Transform | Callable[[Any], Any]
# The list comes first: what is first writes the saved configuration, and callables would claim a list.
TransformOption: TypeAlias = list[OneTransform] | OneTransform | None


@dataclass(frozen=True)
class UserTransform:
    """One or several transforms of the user's, one after the other, and the check of what they return.

    Attributes:
        option: Of the command, for messages.
        steps: The transforms.
        channels: Of the images.
        size: Height and width of the result; what has another size is cut out of the centre.
        any_float: As for ``as_image``.
    """

    option: str
    steps: tuple[Callable[[Any], Any], ...]
    channels: Literal[1, 3]
    size: tuple[int, int]
    any_float: bool = False

    def __call__(self, image: Tensor) -> Tensor:
        """Turn (C, H, W) into (C, *size), uint8 or float32.

        Raises:
            UsageError: A transform raises, or returns something else than such an image.
        """
        changed = self.apply(image)
        height, width = self.size
        if changed.shape[1:] == self.size:
            return changed
        if height != width:
            message = (
                f"{self.option} leaves an image of {changed.shape[2]} x {changed.shape[1]} pixels; allowed: "
                f"{width} x {height}, or give the size of the network's input with --data.size_px."
            )
            raise UsageError(message)
        return EvalTransform(height, height)(changed)

    def apply(self, image: Tensor) -> Tensor:
        """Apply the transforms, without cutting to the size.

        Raises:
            UsageError: As above.
        """
        changed: Any = image
        for step in self.steps:
            try:
                changed = step(changed)
            except Exception as error:
                what = describe_error(error)
                message = f"{self._title(step)} raised {what}; its input was {_what(changed)}."
                raise UsageError(message) from error
        try:
            return as_image(changed, self.channels, any_float=self.any_float)
        except NotAnImageError as error:
            allowed = allowed_images(self.channels)
            message = f"{self._title(self.steps[-1])} returned {error}; allowed: {allowed}."
            raise UsageError(message) from error

    def _title(self, step: object) -> str:
        return f"{self.option} {getattr(step, '__name__', type(step).__name__)}"


def as_steps(option: str, given: TransformOption) -> tuple[Callable[[Any], Any], ...] | None:
    """Return the transforms that an option names; ``None`` if it is left out.

    Args:
        option: Its name.
        given: Its value.

    Raises:
        UsageError: It is no transform.
    """
    if given is None:
        return None
    steps: tuple[Any, ...] = tuple(given) if isinstance(given, list | tuple) else (given,)
    for step in steps:
        if isinstance(step, type) or not callable(step):
            what = f"the class {step.__name__}" if isinstance(step, type) else repr(step)
            message = f"--data.{option} is {what}; allowed: an object that can be called, or a list of such."
            raise UsageError(message)
    return steps


def _what(given: object) -> str:
    if isinstance(given, Tensor):
        return f"{str(given.dtype).removeprefix('torch.')} {tuple(given.shape)}"
    return type(given).__name__
