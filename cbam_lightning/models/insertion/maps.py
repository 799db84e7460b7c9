"""Which values in a data flow are feature maps, and which modules returned them."""

from __future__ import annotations

from math import prod

from cbam_lightning.models.insertion.dataflow import Dataflow, Value


def is_map(flow: Dataflow, value: Value) -> bool:
    """Return whether a value is a feature map or a sequence of several channels and positions."""
    axis = value.channel_axis
    if axis is None or len(value.shape) not in (3, 4, 5):
        return False
    return value.shape[axis] > 1 and prod(value.positions) > 1 and partition(flow, value) is None


def partition(flow: Dataflow, value: Value) -> str | None:
    """Return what a tensor holds if it holds parts of the images: regions of a detector, patches, windows.

    They are more or fewer than the images; or, as in MaxViT, with the channels last the positions are the
    windows and what is in them. The sides of a map are in the proportion of the image's, but for the rounding
    of one position.
    """
    if len(value.shape) in (3, len(flow.input_shape)) and value.shape[0] != flow.input_shape[0]:
        return f"{value.shape[0]} regions or patches of {flow.input_shape[0]} images"
    if value.channel_axis == 1 or len(value.positions) != 2 or len(flow.input_shape) != 4:
        return None
    (height, width), (image_height, image_width) = value.positions, flow.input_shape[2:]
    if abs(height * image_width - width * image_height) <= max(image_height, image_width):
        return None
    return f"windows: its {height} x {width} positions are not in the proportion of the image"


def module_of(flow: Dataflow, value: Value, any_kind: bool = False) -> str | None:
    """Return the module that computed a value, or the outermost one around it that returns the same value.

    Neither the network itself nor a module that is called several times, such as a shared ReLU, qualifies.

    Args:
        flow: Of the network.
        value: A value in it.
        any_kind: Whether lists of modules, and others after which attention cannot be inserted, qualify;
            it follows the last module in them.
    """
    names = [
        name
        for name in flow.modules_of.get(value, [])
        if name and len(flow.outputs[name]) == 1 and (any_kind or name not in flow.unfit)
    ]
    around = [name for name in names if names[0].startswith(f"{name}.")]
    return min([*names[:1], *around], key=len, default=None)


def resolution(value: Value) -> int:
    """Return the number of positions: that of tokens is the same as that of the map which they were."""
    return prod(value.positions)
