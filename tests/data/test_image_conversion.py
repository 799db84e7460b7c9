import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor
from torchvision.tv_tensors import Image as ImageTensor

from cbam_lightning.data.image_conversion import NotAnImageError, as_image
from tests.data.generate import patches

PIXELS = patches(1, 20, 24)[0]
EXPECTED = torch.from_numpy(PIXELS).permute(2, 0, 1)


@pytest.mark.parametrize(
    "given",
    [
        PIXELS,
        PIXELS.astype(np.int32),
        PIXELS.astype(">u2"),
        PIXELS[::-1][::-1],
        EXPECTED,
        EXPECTED.to(torch.int16),
        EXPECTED.to(torch.uint16),
        ImageTensor(EXPECTED),
        Image.fromarray(PIXELS),
        Image.fromarray(PIXELS).convert("RGBA"),
    ],
)
def test_images_of_every_kind_give_the_same_pixels(given):
    image = as_image(given, 3)
    assert image.dtype == torch.uint8
    assert type(image) is torch.Tensor
    assert torch.equal(image, EXPECTED)


def test_floats_stay_and_bool_is_black_and_white():
    floats = PIXELS / 255
    assert torch.equal(as_image(floats, 3), torch.from_numpy(floats).permute(2, 0, 1).float())
    assert torch.equal(as_image(EXPECTED.double() / 255, 3), (EXPECTED.double() / 255).float())
    bright = PIXELS[..., 0] > 100
    assert torch.equal(as_image(bright, 1), torch.from_numpy(bright)[None].to(torch.uint8) * 255)
    assert torch.equal(as_image(torch.from_numpy(PIXELS[..., 0]), 1), EXPECTED[:1])
    wild = torch.randn(3, 4, 4)
    assert torch.equal(as_image(wild, 3, any_float=True), wild)


def test_pil_images_are_converted_as_files_are():
    grey = Image.fromarray(PIXELS).convert("L")
    assert torch.equal(as_image(grey, 3), pil_to_tensor(grey).expand(3, -1, -1))
    assert torch.equal(as_image(Image.fromarray(PIXELS), 1), pil_to_tensor(grey))
    turned = Image.fromarray(PIXELS)
    turned.getexif()[0x0112] = 6  # the camera was held upright
    assert torch.equal(as_image(turned, 3), EXPECTED.rot90(-1, (1, 2)))


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (None, "nothing"),
        ("photo.jpg", "an object of type str"),
        (PIXELS[..., :2], r"an array \(20, 24, 2\) of uint8"),
        (EXPECTED.permute(1, 2, 0), r"a tensor \(20, 24, 3\) of uint8"),
        (PIXELS[..., 0], r"an array \(20, 24\) of uint8"),
        (EXPECTED[None], r"a tensor \(1, 3, 20, 24\)"),
        (EXPECTED[:, :0], r"a tensor \(3, 0, 24\)"),
        (EXPECTED * 1j, "complex64"),
        (np.array([["a"]]), r"an array \(1, 1\) of <U1"),
        (EXPECTED.float(), "floats from 0 to 133"),
        (EXPECTED / 255 - 0.5, "floats from -0.5 to 0.02157"),
        (torch.full((3, 2, 2), torch.nan), "floats from nan to nan"),
        (EXPECTED.int() - 300, "integers from -300 to -167"),
        (Image.new("F", (4, 4)), r"an unusable image \(32-bit pixels"),
        (torch.zeros(3, 1, 101), "one side over 100 times the other"),
    ],
)
def test_what_is_no_image_is_described(given, text):
    with pytest.raises(NotAnImageError, match=text):
        as_image(given, 3)
