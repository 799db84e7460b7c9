"""Blending the images of a training batch with each other."""

from __future__ import annotations

from torchvision.transforms import v2


def create_mixing(mixup_alpha: float, cutmix_alpha: float, num_classes: int) -> v2.Transform | None:
    """Make the transform that blends each image and its label with those of its neighbour in the batch.

    Args:
        mixup_alpha: Both parameters of mixup's Beta distribution (https://arxiv.org/abs/1710.09412); 0 for no
            mixup.
        cutmix_alpha: The same for cutmix (https://arxiv.org/abs/1905.04899).
        num_classes: Number of classes.

    Returns:
        From float images (N, C, H, W) and int64 labels (N,) to images (N, C, H, W) and float labels
        (N, num_classes) whose rows sum to 1; or ``None`` if both are off. With both on, each batch gets one
        of them at random.
    """
    choices: list[v2.Transform] = []
    if mixup_alpha:
        choices.append(v2.MixUp(alpha=mixup_alpha, num_classes=num_classes))
    if cutmix_alpha:
        choices.append(v2.CutMix(alpha=cutmix_alpha, num_classes=num_classes))
    return v2.RandomChoice(choices) if choices else None
