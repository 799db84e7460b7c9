"""Tests of the parts of this project against explicit formulas."""

import torch
from my_attention import ContrastAttention
from my_data import Shoes
from my_task import FocalTask
from torch.nn import functional as F

from cbam_lightning.data import Batch


def test_the_attention_keeps_the_shape_and_trains():
    attention = ContrastAttention(channels=8)
    x = torch.randn(2, 8, 5, 4, requires_grad=True)
    output = attention(x)
    output.sum().backward()
    assert output.shape == x.shape
    assert (output / x).amin() > 0
    assert (output / x).amax() < 1
    assert all(parameter.grad is not None for parameter in attention.parameters())


def test_the_loss_is_the_formula():
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    batch = Batch(torch.zeros(6, 1, 28, 28), labels, torch.arange(6))
    task = FocalTask(gamma=2.0, network="resnet8", num_classes=3, in_channels=1)
    p = logits.softmax(1)[torch.arange(6), labels]
    torch.testing.assert_close(task.loss(logits, batch), (-((1 - p) ** 2) * p.log()).mean())
    task.gamma = 0.0
    torch.testing.assert_close(task.loss(logits, batch), F.cross_entropy(logits, labels))


def test_the_data_are_pairs():
    image, label = Shoes(train=False)[0]
    assert image.shape == (1, 28, 28)
    assert Shoes.classes[label] in Shoes.classes
