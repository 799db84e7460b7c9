"""Drawing scenes: overlapping Fashion-MNIST garments of several sizes on parts of photographs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

# Above the values of a garment's outline, which resizing blurs into the black around it.
MASK_ABOVE = 32
SMALLEST_GARMENT, LARGEST_GARMENT = 0.2, 0.55  # side of the garment's square, as a fraction of the scene's
MIN_VISIBLE = 0.3  # fraction of a garment that others must leave uncovered
DIFFICULT_BELOW = 0.5
MAX_TRIES = 20


class Garment(NamedTuple):
    """A garment in a scene.

    Attributes:
        label: Its class, from 0.
        box: Left, top, right and bottom of its visible part in pixels; right and bottom are the first pixels
            outside.
        visible_px: Number of visible pixels.
        visible: Fraction of its pixels that is visible.
    """

    label: int
    box: tuple[int, int, int, int]
    visible_px: int
    visible: float

    @property
    def difficult(self) -> bool:
        """Whether too little is visible to expect a detection."""
        return self.visible < DIFFICULT_BELOW


class _Canvas:
    """A scene under construction.

    Args:
        pixels: uint8 (H, W, C), the background; garments are painted over it.
    """

    def __init__(self, pixels: Pixels) -> None:
        self.pixels = pixels
        self._owner = np.zeros(pixels.shape[:2], dtype=np.int64)  # number of each pixel's garment, 0 for none
        self._labels: list[int] = []
        self._areas: list[int] = []

    def add(self, label: int, pixels: Pixels, mask: Mask, top: int, left: int) -> bool:
        """Paint a garment unless it is empty or hides too much of another; return whether it was painted."""
        place = np.s_[top : top + mask.shape[0], left : left + mask.shape[1]]
        owner = self._owner.copy()
        owner[place][mask] = len(self._labels) + 1
        areas = [*self._areas, int(mask.sum())]
        visible = np.bincount(owner.ravel(), minlength=len(areas) + 1)[1:]
        if not areas[-1] or (visible < MIN_VISIBLE * np.array(areas)).any():
            return False
        self.pixels[place][mask] = pixels[mask][:, None]
        self._owner, self._areas = owner, areas
        self._labels.append(label)
        return True

    def garments(self) -> list[Garment]:
        """Return the garments with their visible parts."""
        garments = []
        for number, (label, area) in enumerate(zip(self._labels, self._areas, strict=True), 1):
            mask = self._owner == number
            visible_px = int(mask.sum())
            garments.append(Garment(label, _extent(mask), visible_px, visible_px / area))
        return garments


@dataclass(frozen=True)
class SceneMaker:
    """Draws scenes, each of which depends on its seed alone.

    Pillow resizes with integers, and ``random.Random(seed).random()`` gives the same sequence in every
    version of Python (https://docs.python.org/3/library/random.html#notes-on-reproducibility).

    Attributes:
        clothes: uint8 (M, 28, 28), light on black.
        labels: The class of each garment, from 0.
        photographs: Images, uint8 (H, W, C).
        size_px: Height and width of a scene.
        num_garments: Smallest and largest number of garments in a scene.
    """

    clothes: Pixels
    labels: Sequence[int]
    photographs: Sequence[Pixels]
    size_px: int
    num_garments: tuple[int, int]

    def draw(self, seed: int) -> tuple[Pixels, list[Garment]]:
        """Draw a scene.

        Returns:
            uint8 (size_px, size_px, C), and the garments in it.
        """
        chance = random.Random(seed)
        canvas = _Canvas(self._background(chance))
        fewest, most = self.num_garments
        for _ in range(fewest + _below(chance, most - fewest + 1)):
            for _ in range(MAX_TRIES):
                label, pixels, mask = self._garment(chance)
                top, left = (_below(chance, self.size_px - side + 1) for side in mask.shape)
                if canvas.add(label, pixels, mask, top, left):
                    break
        return canvas.pixels, canvas.garments()

    def _background(self, chance: random.Random) -> Pixels:
        """Crop a random square from a photograph, between the scene's size and its full height or width."""
        photograph = self.photographs[_below(chance, len(self.photographs))]
        largest = min(photograph.shape[:2])
        smallest = min(largest, self.size_px)
        side = smallest + _below(chance, largest - smallest + 1)
        top, left = (_below(chance, length - side + 1) for length in photograph.shape[:2])
        return _resize(photograph[top : top + side, left : left + side], self.size_px)

    def _garment(self, chance: random.Random) -> tuple[int, Pixels, Mask]:
        """Choose, resize and perhaps mirror a garment: its class, its pixels (h, w) and its mask."""
        index = _below(chance, len(self.clothes))
        fraction = SMALLEST_GARMENT * (LARGEST_GARMENT / SMALLEST_GARMENT) ** chance.random()
        pixels = _resize(self.clothes[index][:, :, None], max(2, round(fraction * self.size_px)))[:, :, 0]
        pixels = pixels[:, ::-1] if chance.random() < 0.5 else pixels
        mask: Mask = ndimage.binary_fill_holes(pixels > MASK_ABOVE)  # dark prints belong to the garment
        left, top, right, bottom = _extent(mask)
        return self.labels[index], pixels[top:bottom, left:right], mask[top:bottom, left:right]


def _below(chance: random.Random, count: int) -> int:
    """Draw an integer from 0, below ``count``."""
    return int(chance.random() * count)


def _resize(pixels: Pixels, side_px: int) -> Pixels:
    """Resize (h, w, C) to (side_px, side_px, C) with antialiased bilinear interpolation."""
    image = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])
    return np.array(image.resize((side_px, side_px), Image.Resampling.BILINEAR)).reshape(side_px, side_px, -1)


def _extent(mask: Mask) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of the true part of a mask; all 0 if it is empty."""
    return Image.fromarray(mask).getbbox() or (0, 0, 0, 0)
