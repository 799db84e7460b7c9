"""How good a map is, in numbers: does what it marks decide about the answer, and is it on the object?

Deletion and insertion are those of RISE (Petsiuk, Das and Saenko, BMVC 2018, https://arxiv.org/abs/1806.07421),
the share inside a mask is the energy-based pointing game of Score-CAM (https://arxiv.org/abs/1910.01279,
section 4.2).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F

from cbam_lightning.explain.evaluating import evaluating

_RISE_SIGMA_PX, _RISE_SIZE_PX = 5, 224  # of the blur, in the authors' code: https://github.com/eclique/RISE
_MIN_SIGMA_PX = 2  # less would leave small images as sharp as they are


class Curves(NamedTuple):
    """Probability of the target while pixels change, in the order in which the map marks them.

    Attributes:
        deletion: (N, steps + 1), from the image to one of the mean colour: a good map makes it fall early.
        insertion: (N, steps + 1), from the blurred image to the image: a good map makes it rise early.
    """

    deletion: Tensor
    insertion: Tensor


@torch.no_grad()
def measure_curves(
    network: nn.Module, images: Tensor, maps: Tensor, targets: Tensor, steps: int = 16
) -> Curves:
    """Delete and insert the pixels of images in the order of their maps.

    Args:
        network: From (N, C, H, W) to (N, K); it is evaluated, 2 * (steps + 1) times.
        images: Normalised, (N, C, H, W), so that 0 is the mean colour.
        maps: Of the size of the images, (N, H, W). Of equal values, the upper left one comes first.
        targets: int64 (N,).
        steps: In how many equal parts the pixels change.
    """
    order = maps.flatten(1).sort(dim=1, descending=True, stable=True).indices
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    rank = rank.view(len(images), 1, *images.shape[2:])
    blurred = blur(images)
    deletion, insertion = [], []
    with evaluating(network):
        for step in range(steps + 1):
            changed = rank < math.ceil(step * order.shape[1] / steps)
            deletion.append(_probabilities(network, torch.where(changed, 0, images), targets))
            insertion.append(_probabilities(network, torch.where(changed, images, blurred), targets))
    return Curves(torch.stack(deletion, 1), torch.stack(insertion, 1))


def blur(images: Tensor) -> Tensor:
    """Blur images as RISE does: Gaussian, with a standard deviation of 5 pixels in 224, and at least 2.

    Args:
        images: (N, C, H, W).
    """
    sigma = max(_MIN_SIGMA_PX, _RISE_SIGMA_PX * min(images.shape[2:]) / _RISE_SIZE_PX)
    # reflection at the edge needs a kernel that does not reach over the whole image
    reach = min(math.ceil(2 * sigma), min(images.shape[2:]) - 1)
    blurred: Tensor = F.gaussian_blur(images, [2 * reach + 1] * 2, [sigma] * 2)
    return blurred


def area_under(curves: Tensor) -> Tensor:
    """Return the area under curves over the share of pixels, by trapezoids: (N, steps + 1) to (N,)."""
    return torch.trapezoid(curves, dx=1 / (curves.shape[1] - 1))


def share_inside(maps: Tensor, masks: Tensor) -> Tensor:
    """Return which share of a map lies inside a mask.

    Args:
        maps: At least 0, (N, H, W).
        masks: bool (N, H, W).

    Returns:
        (N,) in [0, 1]; not a number where a map is 0 everywhere.
    """
    return (maps * masks).sum((1, 2)) / maps.sum((1, 2))


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
