"""Augmentation: any callable from a uint8 image (C, H, W) to an image; it runs in the data workers."""

import torch


class Fade:
    def __init__(self, strength: float = 0.5):
        self.strength = strength

    def __call__(self, image):
        return (image * (1 - self.strength * torch.rand(()))).to(torch.uint8)
