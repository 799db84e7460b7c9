"""Fashion-MNIST garments on photographs: a synthetic detection data set."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from cbam_lightning.checks import require, require_at_least
from cbam_lightning.data.batch import BadImage
from cbam_lightning.data.detection.annotations import Annotations, annotate
from cbam_lightning.data.detection.augmentation import DetectionTransform
from cbam_lightning.data.detection.dataset import DetectionDataset, DetectionImages
from cbam_lightning.data.detection.module import DetectionDataModule
from cbam_lightning.data.detection.scene_drawing import Pixels, SceneMaker
from cbam_lightning.data.fashion_mnist import EMBEDDED_DIR, NUM_CLASSES, FashionMNIST
from cbam_lightning.data.image_files import find_image_files, read_image
from cbam_lightning.errors import UsageError
from cbam_lightning.seeding import Stream, derive_seed

PHOTOGRAPHS = ("china.jpg", "flower.jpg")
TRAIN_WIDTH = 0.7  # left part of each photograph, the background of training scenes


class FashionScenes(DetectionDataModule):
    """Scenes of overlapping Fashion-MNIST garments of several sizes on parts of photographs.

    Garments and photographs are shipped with the package, so nothing is downloaded. Training scenes show
    training garments on the left 70% of the photographs; test scenes show test garments on the rest. A scene
    depends on ``scene_seed``, its part and its number alone, so a smaller set is the beginning of a larger
    one. Boxes enclose the visible part of a garment. A garment that is less than half visible is difficult.

    Args:
        size_px: Height and width of a scene.
        num_images: Number of training scenes, including the held-out ``val_fraction``.
        num_test_images: Number of test scenes.
        num_garments: Smallest and largest number of garments in a scene.
        scene_seed: Seed of the scenes; they are independent of the seed of the run.
        source: "embedded" for the shipped garments, "full" for all of Fashion-MNIST.
        root: Folder of the full Fashion-MNIST; see ``FashionMNIST``.
        photographs: Folder of photographs, or one photograph. Default: two shipped ones.
        **kwargs: Options of ``DetectionDataModule``.
    """

    num_classes = NUM_CLASSES
    class_names = FashionMNIST.class_names
    category_ids = tuple(range(1, NUM_CLASSES + 1))
    dataset_name = "fashion_scenes"

    def __init__(
        self,
        size_px: int = 112,
        *,
        num_images: int = 1000,
        num_test_images: int = 200,
        num_garments: tuple[int, int] = (1, 5),
        scene_seed: int = 0,
        source: Literal["embedded", "full"] = "embedded",
        root: str = "datasets",
        photographs: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(size_px=size_px, **kwargs)
        require_at_least(32, size_px=size_px)
        require_at_least(1, num_images=num_images, num_test_images=num_test_images)
        require_at_least(0, scene_seed=scene_seed)
        fewest, most = num_garments
        is_allowed = 0 <= fewest <= most and most > 0
        require(is_allowed, "num_garments", num_garments, "two ascending numbers from 0")
        self.scene_px = size_px
        self.num_images = num_images
        self.num_test_images = num_test_images
        self.num_garments = (fewest, most)
        self.scene_seed = scene_seed
        self.photographs = photographs
        self._clothes = FashionMNIST(source=source, root=root)
        self._drawn: dict[str, Tensor] = {}

    def load_part(self, train: bool) -> Annotations:
        """Draw the scenes of the training or test part, and return their annotations."""
        part, count = ("train", self.num_images) if train else ("test", self.num_test_images)
        maker = self._maker(train)
        seeds = [derive_seed(Stream.SCENES, self.scene_seed, int(train), i) for i in range(count)]
        scenes = [maker.draw(seed) for seed in seeds]
        self._drawn[part] = torch.from_numpy(np.stack([pixels for pixels, _ in scenes])).permute(0, 3, 1, 2)
        garments = [garment for _, in_scene in scenes for garment in in_scene]
        return annotate(
            [f"{self.dataset_name}/{part}/{i:05d}" for i in range(count)],
            range(1, count + 1),
            [(self.scene_px, self.scene_px)] * count,
            [(g.box, g.label + 1, g.difficult, False, g.visible_px) for g in garments],
            [i for i, (_, in_scene) in enumerate(scenes) for _ in in_scene],
        )

    def open_images(self, annotations: Annotations, transform: DetectionTransform) -> DetectionDataset:
        """Build the data set of some scenes of a part."""
        return DetectionImages(annotations, transform, self.images_of(annotations))

    def images_of(self, annotations: Annotations) -> Tensor:
        """Return the scenes of some annotations of one part: uint8 (M, C, H, W)."""
        _, part, _ = annotations.name(0).split("/")
        return self._drawn[part][annotations.image_ids - 1]

    def _maker(self, train: bool) -> SceneMaker:
        clothes, labels = self._clothes.load_part(train)
        photos = [self._photograph(path, train) for path in self._photograph_paths()]
        return SceneMaker(clothes[:, 0].numpy(), labels.tolist(), photos, self.scene_px, self.num_garments)

    def _photograph_paths(self) -> list[str]:
        if self.photographs is None:
            return [str(EMBEDDED_DIR / name) for name in PHOTOGRAPHS]
        return find_image_files(self.photographs, "--data.photographs")

    def _photograph(self, path: str, train: bool) -> Pixels:
        """Read the part of a photograph for training or for testing: uint8 (H, W, C)."""
        image = read_image(path, self.in_channels)
        if isinstance(image, BadImage):
            raise UsageError(f"cannot use the photograph {path}: {image.reason}; replace or remove it.")
        pixels: Pixels = image.permute(1, 2, 0).contiguous().numpy()
        border = round(TRAIN_WIDTH * pixels.shape[1])
        return pixels[:, :border] if train else pixels[:, border:]
