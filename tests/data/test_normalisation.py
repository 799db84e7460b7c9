import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms.v2 import functional as F

from cbam_lightning.data.normalisation import normalise

GREY, COLOUR = ((0.286,), (0.353,)), ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616))


@pytest.mark.parametrize(("mean", "std"), [GREY, COLOUR, tuple(map(list, COLOUR))])
def test_it_equals_torchvision_bit_for_bit(mean, std):
    images = torch.randint(256, (5, len(mean), 9, 7), dtype=torch.uint8)
    images = images.contiguous(memory_format=torch.channels_last)
    for given in (images, images / 255):
        expected = F.normalize(F.to_dtype(given, torch.float32, scale=True), mean, std)
        kept = given.clone()
        assert torch.equal(normalise(given, mean, std), expected)
        assert torch.equal(given, kept)
        assert normalise(given, mean, std).is_contiguous()


def test_statistics_from_a_validation_serve_training_in_any_default_dtype():
    mean, std = (0.123,), (0.456,)  # not seen before
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode():
            assert normalise(torch.zeros(1, 1, 2, 2), mean, std).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)
    weight = torch.ones(1, requires_grad=True)
    normalise(torch.ones(1, 1, 2, 2) * weight, mean, std).sum().backward()
    torch.testing.assert_close(weight.grad, torch.tensor([4 / 0.456]))


class _Calls(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_a_batch_needs_nothing_from_the_cpu():
    images = torch.empty(4, 3, 8, 8, dtype=torch.uint8, device="meta")
    normalise(images, *COLOUR)
    with _Calls() as calls:
        normalise(images, *COLOUR)
    assert calls.names == ["_to_copy", "mul_", "sub", "div_"]  # the copy is to float32
