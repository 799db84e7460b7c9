"""Fashion-MNIST's garments on photographs: a detection set that is drawn on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from cbam_lightning.checks import require
from cbam_lightning.data.batch import BadImage, as_index
from cbam_lightning.data.detection.annotations import Annotations, annotate, as_objects
from cbam_lightning.data.detection.augmentation import Augmentation, DetectionTransform
from cbam_lightning.data.detection.dataset import DetectionDataset, DetectionImages
from cbam_lightning.data.detection.module import DetectionDataModule
from cbam_lightning.data.detection.scene_drawing import Pixels, SceneMaker
from cbam_lightning.data.fashion_mnist import EMBEDDED_DIR, NUM_CLASSES, FashionMNIST
from cbam_lightning.data.image_files import find_files, read_image
from cbam_lightning.errors import UsageError
from cbam_lightning.seeding import Stream, derive_seed

PHOTOGRAPHS = ("china.jpg", "flower.jpg")
TRAIN_WIDTH = 0.7  # the left part of each photograph, behind the training scenes


class FashionScenes(DetectionDataModule):
    """Scenes of Fashion-MNIST garments of several sizes that overlap, on parts of photographs.

    Nothing has to be downloaded: garments and photographs are shipped with the package. Training scenes show
    training garments on the left seven tenths of the photographs, test scenes show test garments on the rest.
    A scene follows from ``scene_seed``, its part and its number alone, so that fewer scenes are the first of
    more. Boxes enclose what can be seen of a garment; one of which less than half can be seen is difficult.

    Args:
        size_px: Height and width of a scene.
        in_channels: 3 for photographs in colour, 1 for grey ones; garments are grey.
        num_images: Training scenes, of which ``val_fraction`` is held out.
        num_test_images: Test scenes.
        num_garments: The fewest and the most garments in a scene.
        scene_seed: Seed of the scenes; the seed of the run does not influence them.
        source: "embedded" for the shipped garments, "full" for all of Fashion-MNIST.
        root: Folder of the full Fashion-MNIST; see ``FashionMNIST``.
        photographs: Folder of other photographs; by default two are shipped.
        augmentation: What training changes at random: "ssd" for colours, zooming out, cutting and mirroring,
            "flip" for mirroring only, "none" for nothing.
        keep_negatives: Whether to train on scenes without any object to learn, too.
        **kwargs: Options of ``DetectionDataModule``.
    """

    num_classes = NUM_CLASSES
    class_names = FashionMNIST.class_names
    category_ids = tuple(range(1, NUM_CLASSES + 1))
    dataset_name = "fashion_scenes"

    def __init__(
        self,
        size_px: int = 112,
        in_channels: Literal[1, 3] = 3,
        num_images: int = 1000,
        num_test_images: int = 200,
        num_garments: tuple[int, int] = (1, 5),
        scene_seed: int = 0,
        source: Literal["embedded", "full"] = "embedded",
        root: str = "datasets",
        photographs: str | None = None,
        augmentation: Augmentation = "flip",
        keep_negatives: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            size_px=size_px,
            in_channels=in_channels,
            augmentation=augmentation,
            keep_negatives=keep_negatives,
            **kwargs,
        )
        require(size_px >= 32, "size_px", size_px, "32 or more")
        require(num_images >= 1, "num_images", num_images, "1 or more")
        require(num_test_images >= 1, "num_test_images", num_test_images, "1 or more")
        fewest, most = num_garments
        require(
            0 <= fewest <= most and most > 0, "num_garments", num_garments, "two ascending numbers from 0"
        )
        require(scene_seed >= 0, "scene_seed", scene_seed, "0 or more")
        self.scene_px = size_px
        self.num_images = num_images
        self.num_test_images = num_test_images
        self.num_garments = (fewest, most)
        self.scene_seed = scene_seed
        self.photographs = photographs
        self._clothes = FashionMNIST(source=source, root=root)
        self._drawn: dict[str, Tensor] = {}

    def load_part(self, train: bool) -> Annotations:
        """Draw the scenes of the training or the test part, and return what is on them."""
        part, count = ("train", self.num_images) if train else ("test", self.num_test_images)
        maker = self._maker(train)
        scenes = [
            maker.draw(derive_seed(Stream.SCENES, self.scene_seed, int(train), i)) for i in range(count)
        ]
        self._drawn[part] = torch.from_numpy(np.stack([pixels for pixels, _ in scenes])).permute(0, 3, 1, 2)
        garments = [garment for _, found in scenes for garment in found]
        objects = as_objects(
            [garment.box for garment in garments],
            [garment.label + 1 for garment in garments],
            [garment.difficult for garment in garments],
            [False] * len(garments),
            [garment.visible_px for garment in garments],
        )
        return annotate(
            [f"{self.dataset_name}/{part}/{i:05d}" for i in range(count)],
            range(1, count + 1),
            torch.full((count, 2), self.scene_px),
            objects._replace(boxes=objects.boxes.float()),
            as_index([i for i, (_, found) in enumerate(scenes) for _ in found]),
        )

    def open_images(self, annotations: Annotations, transform: DetectionTransform) -> DetectionDataset:
        """Make the data set of some scenes of a part."""
        _, part, _ = annotations.name(0).split("/")
        return DetectionImages(self.images_of(annotations, part), annotations, transform)

    def images_of(self, annotations: Annotations, part: str) -> Tensor:
        """Return the scenes of some annotations of a part, "train" or "test": uint8 (M, C, H, W)."""
        return self._drawn[part][annotations.image_ids - 1]

    def _maker(self, train: bool) -> SceneMaker:
        clothes, labels = self._clothes.load_part(train)
        photographs = [_share(self._photograph(path), train) for path in self._photograph_paths()]
        return SceneMaker(
            clothes[:, 0].numpy(), labels.tolist(), photographs, self.scene_px, self.num_garments
        )

    def _photograph_paths(self) -> list[str]:
        folder = self.photographs
        if folder is None:
            return [str(EMBEDDED_DIR / name) for name in PHOTOGRAPHS]
        paths = find_files(folder) if Path(folder).is_dir() else []
        if not paths:
            problem = "holds no files" if Path(folder).is_dir() else "is no folder"
            message = f"photographs is {folder}, which {problem}; give a folder with --data.photographs."
            raise UsageError(message)
        return paths

    def _photograph(self, path: str) -> Pixels:
        """Read a photograph: uint8 (H, W, C)."""
        found = read_image(path, self.in_channels)
        if isinstance(found, BadImage):
            message = f"cannot use the photograph {path}: {found.reason}; replace or remove it."
            raise UsageError(message)
        pixels: Pixels = found[0].permute(1, 2, 0).contiguous().numpy()
        return pixels


def _share(photograph: Pixels, train: bool) -> Pixels:
    """Cut off the part of a photograph that is for training, or for the test."""
    border = round(TRAIN_WIDTH * photograph.shape[1])
    return photograph[:, :border] if train else photograph[:, border:]
