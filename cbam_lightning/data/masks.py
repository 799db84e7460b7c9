"""Masks of the objects in images: finding the file of each image, and cutting it as the image is cut."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePath

import torch
from torch import Tensor

from cbam_lightning.data.arrays import ArrayDataset
from cbam_lightning.data.cropping import EvalTransform
from cbam_lightning.data.image_decoding import UndecodableError, decode_not_black, upright_size
from cbam_lightning.data.image_files import FileDataset
from cbam_lightning.data.image_selection import ImageSelection
from cbam_lightning.data.split_dataset import SplitDataset, TransformedDataset
from cbam_lightning.errors import UsageError

# Why an image has no mask.
NO_FILE = "there is no file"
NO_OBJECT = "the mask holds no object"
LOST = "the object is lost when the image is resized and cropped"
UNREADABLE = "the file cannot be read"

_Size = tuple[int, int]


class MaskFolder:
    """A folder of masks, which are not black where the object is.

    The mask of ``photos/cat/1.jpg`` is ``cat/1.png`` in the folder, or else ``1.png``.

    Args:
        folder: The folder.
        images: Those that may have masks.

    Raises:
        UsageError: There is no such folder, or no mask of an image in it; two images have the same mask; a
            mask has another size than its image; or the images are changed by more than resizing and
            cropping.
    """

    def __init__(self, folder: str | Path, images: ImageSelection) -> None:
        names = {images.dataset.name(position): position for position in images.positions}
        self._files = _find(Path(folder), names)
        self._transform = _geometry(images.dataset)
        for name, path in self._files.items():
            mask_size, size = _file_size(path), _image_size(images.dataset, names[name])
            if None not in (mask_size, size) and mask_size != size:
                raise UsageError(
                    f"the mask {path} is {_sides(mask_size)} pixels and its image {name} is {_sides(size)} "
                    "(both after the rotation that an EXIF tag asks for); give a mask for the whole image, "
                    "of its size."
                )

    def of(self, name: str) -> Tensor | str:
        """Return the mask of an image.

        Args:
            name: As the data set calls it.

        Returns:
            bool (size_px, size_px), which holds an object, cut as the image is; or the reason why there is
            none: ``NO_FILE``, ``NO_OBJECT``, ``LOST``, or ``UNREADABLE`` with file and reason.

        Raises:
            OSError: The file cannot be read.
        """
        path = self._files.get(name)
        if path is None:
            return NO_FILE
        try:
            inside = decode_not_black(path.read_bytes())
        except UndecodableError as error:
            return f"{UNREADABLE}: {path}: {error}"
        if not inside.any():
            return NO_OBJECT
        if self._transform is None:
            return inside
        # a pixel belongs to the object if at least half of it does
        seen = self._transform(inside[None].to(torch.uint8) * 255)[0] > 127
        return seen if seen.any() else LOST


def _find(folder: Path, names: Mapping[str, int]) -> dict[str, Path]:
    """Return the files of the images that have one, by the images' names."""
    if not folder.is_dir():
        raise UsageError(f"--masks {folder} is not a folder; give a folder with NAME.png for NAME.jpg.")
    files: dict[str, Path] = {}
    owners: dict[Path, str] = {}
    for name in names:
        path = next(filter(Path.is_file, _candidates(folder, name)), None)
        if path is None:
            continue
        if path in owners:
            raise UsageError(
                f"{path} would be the mask of both {owners[path]} and {name}; put masks into subfolders "
                f"like those of the images, such as {_candidates(folder, name)[-2:][0]}."
            )
        files[name] = path
        owners[path] = name
    if not files:
        some = next(iter(names), "NAME.jpg")
        raise UsageError(
            f"--masks {folder} has no mask for any of the {len(names)} images; that of {some}, for example, "
            f"would be {_candidates(folder, some)[-1]}."
        )
    return files


def _candidates(folder: Path, name: str) -> list[Path]:
    """Return where the mask of an image may be, from the most subfolders to none."""
    path = PurePath(name).with_suffix(".png")
    parts = [part for part in path.parts if part not in (path.anchor, "..")]
    return [folder.joinpath(*parts[start:]) for start in range(len(parts))]


def _geometry(dataset: SplitDataset) -> EvalTransform | None:
    """Return how the images of a data set are cut, ``None`` for not at all."""
    if isinstance(dataset, ArrayDataset):
        return None
    transform = getattr(dataset, "transform", None)
    if isinstance(transform, EvalTransform):
        return transform
    raise UsageError(
        "--masks is for images that are resized and cropped and nothing else, because the masks have to be "
        "cut as they are, and these are changed by a transform of their data set; leave --masks out, or give "
        "the image files with --images."
    )


def _file_size(path: str | Path) -> _Size | None:
    """Return height and width of an image file, or ``None`` if it is none, which is told when it is read."""
    try:
        return upright_size(str(path))
    except UndecodableError:
        return None


def _image_size(dataset: SplitDataset, position: int) -> _Size | None:
    if isinstance(dataset, FileDataset):
        return _file_size(dataset.name(position))
    image = dataset.read(position) if isinstance(dataset, TransformedDataset) else dataset[position].images[0]
    return (image.shape[1], image.shape[2]) if isinstance(image, Tensor) else None


def _sides(size: _Size | None) -> str:
    return f"{size[1]} x {size[0]}" if size else ""
