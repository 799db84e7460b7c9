"""Images to predict, without the data set that the network was trained on."""

from __future__ import annotations

from typing import Any, Literal, NoReturn

from cbam_lightning.checks import require_at_least
from cbam_lightning.data.class_folders import EVAL_RESIZE_RATIO, channel_statistics
from cbam_lightning.data.classification import ImageDataModule
from cbam_lightning.data.data_module import LabelledSplit
from cbam_lightning.data.image_selection import WHOLE_UP_TO_PX
from cbam_lightning.errors import UsageError


class UnlabelledImages(ImageDataModule):
    """An image file or a folder of image files, for ``predict``; it is the data of ``predict`` by default.

    The command fills in what the checkpoint or the weights know: size, channels, mean and std.

    Args:
        predict_path: Image file, or folder of image files.
        size_px: Height and width of the network's input.
        eval_resize_px: Length to which the shorter side is resized before the centre crop. Default: 256/224
            of ``size_px``; up to 64 pixels, ``size_px`` itself.
        in_channels: 3 to read images as RGB, 1 as greyscale.
        mean: Mean of each channel, of values in [0, 1]. Default: that of ImageNet.
        std: Standard deviation of each channel. Default: that of ImageNet.
        **kwargs: Options of ``ImageDataModule``.
    """

    crop_scale = (1.0, 1.0)
    hflip = False

    def __init__(
        self,
        predict_path: str,
        *,
        size_px: int = 224,
        eval_resize_px: int | None = None,
        in_channels: Literal[1, 3] = 3,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(predict_path=predict_path, **kwargs)
        require_at_least(1, size_px=size_px)
        require_at_least(1, or_null=True, eval_resize_px=eval_resize_px)
        self.size_px = size_px
        whole_or_cut_px = size_px if size_px <= WHOLE_UP_TO_PX else round(size_px * EVAL_RESIZE_RATIO)
        self.eval_resize_px = whole_or_cut_px if eval_resize_px is None else eval_resize_px
        self.in_channels = in_channels
        self.mean, self.std = channel_statistics(mean, std, in_channels)

    def build_split(self, split: LabelledSplit) -> NoReturn:
        """Refuse: there are no classes.

        Raises:
            UsageError: Always.
        """
        raise UsageError(
            f"these images have no classes, so they have no {split} split: they are for `cbam-lightning "
            "predict`. Give a data set, such as --data ImageFolder --data.root FOLDER."
        )
