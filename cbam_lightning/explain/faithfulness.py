"""Metrics of a map: do the marked pixels decide the prediction, and are they on the object?

Deletion and insertion are the metrics of RISE (Petsiuk, Das and Saenko, BMVC 2018,
https://arxiv.org/abs/1806.07421). The share inside a mask is the energy-based pointing game of Score-CAM
(https://arxiv.org/abs/1910.01279, section 4.2).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F

from cbam_lightning.explain.evaluation_mode import evaluation_mode

_RISE_SIGMA_PX, _RISE_SIZE_PX = 5, 224  # blur and image size in the authors' code, github.com/eclique/RISE
_MIN_SIGMA_PX = 2  # anything less would leave small images sharp


class Curves(NamedTuple):
    """Probability of the target while pixels change, starting with those that the map marks most.

    Attributes:
        deletion: (N, steps + 1), from the image to the mean colour; with a good map it falls early.
        insertion: (N, steps + 1), from the blurred image to the image; with a good map it rises early.
    """

    deletion: Tensor
    insertion: Tensor


@torch.no_grad()
def measure_curves(
    network: nn.Module, images: Tensor, maps: Tensor, targets: Tensor, steps: int = 16
) -> Curves:
    """Delete and insert the pixels of images in the order of their maps.

    Args:
        network: From (N, C, H, W) to (N, K). It runs 2 * (steps + 1) times, in evaluation mode.
        images: Normalised, (N, C, H, W), so that 0 is the mean colour.
        maps: (N, H, W), of the size of the images. Ties are broken row by row from the upper left.
        targets: int64 (N,).
        steps: Number of equal steps in which the pixels change.
    """
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)  # (N, H * W)
    rank = order.argsort(dim=1).view(len(images), 1, *images.shape[2:])
    blurred = blur(images)
    deletion, insertion = [], []
    with evaluation_mode(network):
        for step in range(steps + 1):
            changed = rank < math.ceil(step * order.shape[1] / steps)
            deletion.append(_probabilities(network, torch.where(changed, 0, images), targets))
            insertion.append(_probabilities(network, torch.where(changed, images, blurred), targets))
    return Curves(torch.stack(deletion, 1), torch.stack(insertion, 1))


def blur(images: Tensor) -> Tensor:
    """Blur images as RISE does: Gaussian, with a standard deviation of 5 pixels per 224, at least 2 pixels.

    Args:
        images: (N, C, H, W).
    """
    sigma = max(_MIN_SIGMA_PX, _RISE_SIGMA_PX * min(images.shape[2:]) / _RISE_SIZE_PX)
    # reflection padding needs a kernel that is smaller than the image
    reach = min(math.ceil(2 * sigma), min(images.shape[2:]) - 1)
    blurred: Tensor = F.gaussian_blur(images, [2 * reach + 1] * 2, [sigma] * 2)
    return blurred


def area_under(curves: Tensor) -> Tensor:
    """Return the area under curves over the fraction of pixels (trapezoidal rule): (N, steps + 1) to (N,)."""
    return torch.trapezoid(curves, dx=1 / (curves.shape[1] - 1))


def share_inside(maps: Tensor, masks: Tensor) -> Tensor:
    """Return the share of each map that lies inside its mask.

    Args:
        maps: At least 0, (N, H, W).
        masks: bool (N, H, W).

    Returns:
        (N,) in [0, 1]; NaN where a map is 0 everywhere, or a mask holds no object.
    """
    shares = (maps * masks).sum((1, 2)) / maps.sum((1, 2))
    return torch.where(masks.any(2).any(1), shares, torch.nan)


def extent(maps: Tensor) -> Tensor:
    """Return the share of the image where a map is above half its maximum.

    Args:
        maps: At least 0, (N, H, W).

    Returns:
        (N,) in [0, 1]; 0 where a map is 0 everywhere.
    """
    return (maps > maps.amax((1, 2), keepdim=True) / 2).to(maps.dtype).mean((1, 2))


def _probabilities(network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    probabilities: Tensor = network(images).softmax(1)
    return probabilities.gather(1, targets[:, None])[:, 0]
