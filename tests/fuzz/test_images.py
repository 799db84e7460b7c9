"""Damaged images are decoded or refused, and need no more memory than their size allows."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cbam_lightning.data import ImageFolder
from cbam_lightning.data.batch import BadImage
from cbam_lightning.data.cropping import EvalTransform
from cbam_lightning.data.image_decoding import SUFFIXES, UndecodableError, decode_image
from cbam_lightning.data.image_files import FileDataset, read_image
from cbam_lightning.data.split_dataset import Preparation
from cbam_lightning.errors import UsageError
from tests.data.generate import patches, write_image_folder
from tests.fuzz.damage import at_most, damaged, fuzz, lengths

# Pillow warns of damaged metadata, and of images that are large but acceptable.
pytestmark = pytest.mark.filterwarnings("ignore")

PICTURE = Image.fromarray(patches(1, 20, 24)[0])
TURNED = Image.Exif()
TURNED[0x0112] = 6


def encode(picture, file_format, **options):
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


def files():
    more = {"save_all": True, "append_images": [PICTURE, PICTURE]}
    yield from (encode(PICTURE, name) for name in ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP"))
    yield from (encode(PICTURE, name, exif=TURNED) for name in ("JPEG", "PNG", "TIFF", "WEBP"))
    yield from (encode(PICTURE, name, **more) for name in ("GIF", "PNG", "TIFF", "WEBP", "MPO"))
    yield from (
        encode(PICTURE, "TIFF", compression=c) for c in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg")
    )
    yield from (encode(PICTURE.convert("1"), "TIFF", compression=c) for c in ("group3", "group4"))
    yield from (encode(PICTURE.convert(mode), "JPEG") for mode in ("L", "CMYK"))
    yield from (encode(PICTURE.quantize(16), name) for name in ("BMP", "PNG"))
    yield encode(PICTURE, "JPEG", progressive=True)
    yield encode(PICTURE.quantize(16), "PNG", transparency=bytes(range(16)))
    yield encode(Image.fromarray(np.asarray(PICTURE.convert("L")).astype(np.uint16) * 256), "PNG")


FILES = tuple(files())


@lengths(200, 6_000)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_damaged_image(examples, channels):
    def read(content):
        pixels = decode_image(content, channels)
        assert pixels.dtype == torch.uint8
        assert pixels.ndim == 3
        assert pixels.shape[0] == channels
        assert pixels.numel()

    fuzz(examples, damaged(*FILES), read, UndecodableError, megabytes=1500)


@lengths(60, 1_000)
def test_a_damaged_file_among_others(examples, tmp_path):
    """A damaged image is listed as bad, and the others are read."""
    names = [f"{i}{suffix}" for i, suffix in enumerate(SUFFIXES)]
    dataset = FileDataset(names, torch.zeros(len(names)).long(), Preparation(EvalTransform(8, 9), 3, 8))
    for name in names:
        Path(name).write_bytes(FILES[0])

    def read(content):
        Path(names[-1]).write_bytes(content)
        batch = dataset.__getitems__([0, len(names) - 1])
        assert batch.images.shape == (len(batch.indices), 3, 8, 8)
        assert batch.indices[0] == 0
        assert [bad.path for bad in batch.bad] == names[-1:] * (2 - len(batch.indices))
        if batch.bad:
            raise UndecodableError(batch.bad[0].reason)

    fuzz(examples, damaged(*FILES), read, UndecodableError, megabytes=1500)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


@lengths(15, 200)
def test_a_damaged_file_in_a_class_folder(examples):
    write_image_folder(Path("pets"), images_per_class=3)
    whole = Path("pets", "cat", "001.jpg").read_bytes()

    def read(content):
        Path("pets", "cat", "001.jpg").write_bytes(content)
        data = ImageFolder("pets", size_px=8, num_workers=0, batch_size=9)
        for split in ("train", "val", "test"):
            for batch in torch.utils.data.DataLoader(data.split_set(split), 9, collate_fn=lambda b: b):
                data.on_before_batch_transfer(batch, 0)

    fuzz(examples, damaged(whole), read, UsageError)


def png(width, height):
    def chunk(name, content):
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(99)))
        + chunk(b"IEND", b"")
    )


def huge(name, side):
    """Return an image that claims to have more pixels than fit into memory."""
    sides = {"GIF": (6, "<HH"), "BMP": (18, "<ii")}
    if name == "PNG":
        return png(side, side)
    content = bytearray(encode(PICTURE, name))
    if name == "JPEG":
        at, layout = content.index(b"\xff\xc0") + 5, ">HH"
    else:
        at, layout = sides[name]
    content[at : at + struct.calcsize(layout)] = struct.pack(layout, side, side)
    return bytes(content)


@pytest.mark.parametrize(
    ("name", "side"), [("PNG", 2**31 - 1), ("BMP", 2**30), ("GIF", 65535), ("JPEG", 65500)]
)
def test_a_size_that_does_not_fit_into_memory_is_refused_without_any(name, side):
    with at_most(50), pytest.raises(UndecodableError, match=r"decompression bomb|exceeds limit|pixels"):
        decode_image(huge(name, side), 3)


def test_only_the_names_of_images_are_read(tmp_path):
    (tmp_path / "x.eps").write_bytes(FILES[0])
    assert isinstance(read_image(str(tmp_path / "x.eps"), 3), BadImage)
