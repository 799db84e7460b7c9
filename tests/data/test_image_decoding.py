import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.io import ImageReadMode
from torchvision.io import decode_image as torchvision_decode

from cbam_lightning.data.image_decoding import UndecodableError, decode_image
from tests.data.generate import photographs

PHOTO = photographs()[0][200:260, 300:380].copy()  # (60, 80, 3)


def encode(image, file_format, **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("channels", "mode"), [(3, ImageReadMode.RGB), (1, ImageReadMode.GRAY)])
@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_agrees_with_torchvision(channels, mode, file_format):
    data = encode(Image.fromarray(PHOTO), file_format)
    ours = decode_image(data, channels)
    theirs = torchvision_decode(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode)
    assert ours.shape == (channels, 60, 80)
    difference = (ours.int() - theirs.int()).abs()
    # torchvision takes the Y channel of a JPEG as it is stored, so the rounding and clipping of RGB differs.
    assert difference.max() <= (0 if channels == 3 else 2 if file_format == "PNG" else 40)
    assert difference.float().mean() < 1


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF", "WEBP", "GIF"])
def test_formats_keep_the_pixels(file_format):
    options = {"lossless": True} if file_format == "WEBP" else {}
    picture = Image.fromarray(PHOTO)
    if file_format == "GIF":
        picture = picture.quantize(256)
    expected = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
    assert torch.equal(decode_image(encode(picture, file_format, **options), 3), expected)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_modes_become_rgb_and_grey(mode):
    picture = Image.fromarray(PHOTO).convert(mode)
    file_format = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    for channels in (1, 3):
        pixels = decode_image(encode(picture, file_format, quality=98), channels)
        assert pixels.dtype == torch.uint8
        assert pixels.shape == (channels, 60, 80)
        if mode in ("LA", "RGBA", "CMYK", "YCbCr"):
            grey_or_rgb = "L" if channels == 1 or mode == "LA" else "RGB"
            original = np.array(Image.fromarray(PHOTO).convert(grey_or_rgb)).reshape(60, 80, -1)
            difference = pixels.permute(1, 2, 0).float() - torch.from_numpy(original).float()
            assert difference.abs().mean() < 4  # JPEG is lossy


def test_transparency_is_dropped_without_a_warning():
    palette = Image.fromarray(PHOTO).quantize(16)
    data = encode(palette, "PNG", transparency=bytes(range(16)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = decode_image(data, 3)
    assert torch.equal(pixels.permute(1, 2, 0), torch.from_numpy(np.array(palette.convert("RGB"))))


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_values_keep_their_high_byte(channels):
    values = PHOTO[:, :, 0].astype(np.uint16) * 256 + 77
    data = encode(Image.fromarray(values), "PNG")
    pixels = decode_image(data, channels)
    assert torch.equal(pixels, torch.from_numpy(PHOTO[:, :, 0]).expand(channels, -1, -1))


def test_exif_orientation_is_honoured():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see the picture upright
    data = encode(Image.fromarray(PHOTO), "PNG", exif=exif)
    expected = torch.from_numpy(np.rot90(PHOTO, k=-1).copy()).permute(2, 0, 1)
    assert torch.equal(decode_image(data, 3), expected)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not an image of a known format"),
        (b"a text file\n", "not an image of a known format"),
        (encode(Image.fromarray(PHOTO), "JPEG")[:-900], "truncated"),
        (encode(Image.fromarray(PHOTO), "PNG")[:-4000], "truncated"),
        (encode(Image.fromarray(PHOTO), "EPS"), "not an image of a known format"),
        (encode(Image.fromarray(PHOTO[:, :, 0].astype(np.float32)), "TIFF"), "32-bit pixels"),
        (encode(Image.new("1", (20_000, 10_000)), "PNG"), "decompression bomb"),
        (encode(Image.new("L", (2, 201)), "PNG"), "2 x 201 pixels, one side over 100 times the other"),
    ],
    ids=["empty", "text", "cut-jpeg", "cut-png", "eps", "float-tiff", "bomb", "thread"],
)
def test_gives_the_reason_of_a_bad_image(data, reason):
    with pytest.raises(UndecodableError, match=reason) as caught:
        decode_image(data, 3)
    assert "\n" not in str(caught.value)


def test_any_damage_gives_a_bad_image_or_pixels():
    generator = np.random.default_rng(0)
    for file_format in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"):
        data = np.frombuffer(encode(Image.fromarray(PHOTO), file_format), dtype=np.uint8)
        for _ in range(15):
            damaged = data.copy()
            damaged[generator.integers(len(data), size=8)] = generator.integers(256, size=8)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of Pillow, about damaged metadata
                try:
                    pixels = decode_image(damaged.tobytes(), 3)
                except UndecodableError as error:
                    assert len(str(error).splitlines()) == 1  # noqa: PT017 - either outcome is right
                else:
                    assert pixels.dtype == torch.uint8
                    assert pixels.shape[0] == 3
