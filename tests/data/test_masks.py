"""Masks: which file belongs to which image, what is inside, and what fits no image."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from cbam_lightning.data import FashionMNIST, ImageFolder
from cbam_lightning.data.image_selection import open_image_files, spread
from cbam_lightning.data.masks import LOST, NO_FILE, NO_OBJECT, UNREADABLE, MaskFolder
from cbam_lightning.errors import UsageError


def save(path, values, **options):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values)).save(path, **options)


def photo(path, width, height, **options):
    save(path, np.full((height, width, 3), 90, dtype=np.uint8), **options)


def mask(path, width, height, columns=slice(0), value=255, **options):
    values = np.zeros((height, width), dtype=np.uint8)
    values[:, columns] = value
    save(path, values, **options)


def masks_of(path="photos", size_px=224):
    return MaskFolder("masks", spread(open_image_files(path, size_px, 3)))


def turned(orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    return exif


def test_masks_are_cut_as_images_are():
    photo("photos/a.jpg", 256, 256)
    mask("masks/a.png", 256, 256, slice(128, None), value=1)  # any value but black
    found = masks_of().of("photos/a.jpg")
    assert found.dtype == torch.bool
    assert torch.equal(found, (torch.arange(224) >= 112).expand(224, 224))


@pytest.mark.parametrize("size_px", [28, 64])
def test_masks_of_a_data_set_are_cut_as_its_images_are(size_px):
    columns = np.zeros((100, 100, 3), dtype=np.uint8)
    columns[:, 61:] = 255
    for name in "ab":
        for number in range(4):
            save(f"data/{name}/{name}{number}.png", columns)
            save(f"masks/{name}{number}.png", columns)
    images = spread(ImageFolder("data", size_px=size_px, test_fraction=0.5).test_set)
    masks = MaskFolder("masks", images)
    for batch in images.batches(2):
        for one in batch:
            assert torch.equal(masks.of(one.name), one.image[0] > 127)


def test_an_image_without_an_object_to_be_seen_has_no_mask():
    for name in ("none", "lost", "outside", "absent", "damaged", "whole"):
        photo(f"photos/{name}.jpg", 400, 200)
    mask("masks/none.png", 400, 200)
    mask("masks/lost.png", 400, 200, slice(200, 202))
    mask("masks/outside.png", 400, 200, slice(0, 30))
    mask("masks/whole.png", 400, 200, slice(None))
    Path("masks/damaged.png").write_text("no image")
    masks = masks_of(size_px=28)
    reasons = {"none": NO_OBJECT, "lost": LOST, "outside": LOST, "absent": NO_FILE}
    assert {name: masks.of(f"photos/{name}.jpg") for name in reasons} == reasons
    damaged = f"{UNREADABLE}: masks/damaged.png: not an image of a known format"
    assert masks.of("photos/damaged.jpg") == damaged
    assert masks.of("photos/whole.jpg").all()


def test_a_mask_of_another_size_is_refused_with_both_files_and_sizes():
    photo("photos/a.jpg", 50, 40)
    mask("masks/a.png", 40, 50, slice(10))
    with pytest.raises(UsageError, match=r"masks/a\.png is 40 x 50 .* photos/a\.jpg is 50 x 40"):
        masks_of()


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
def test_the_size_is_that_of_the_upright_image(ending):
    photo(f"photos/a.{ending}", 50, 40, exif=turned(6))
    mask("masks/a.png", 40, 50, slice(20))
    assert masks_of(size_px=40).of(f"photos/a.{ending}")[:, :20].all()
    mask("masks/a.png", 50, 40, slice(25), exif=turned(6))  # turned as its image is
    assert masks_of(size_px=40).of(f"photos/a.{ending}")[:18].all()
    mask("masks/a.png", 50, 40, slice(20))
    with pytest.raises(UsageError, match="after the rotation"):
        masks_of()


def test_an_image_in_a_folder_has_the_mask_in_the_folder_of_that_name():
    for name in ("cat", "dog"):
        photo(f"photos/{name}/1.jpg", 50, 40)
    mask("masks/1.png", 50, 40, slice(10))
    with pytest.raises(UsageError, match=r"both photos/cat/1\.jpg and photos/dog/1\.jpg.*masks/dog/1\.png"):
        masks_of()
    mask("masks/dog/1.png", 50, 40, slice(30, None))
    masks = masks_of(size_px=40)
    assert masks.of("photos/cat/1.jpg")[0, 0]
    assert not masks.of("photos/dog/1.jpg")[0, 0]


def test_a_folder_without_a_mask_of_any_image_is_refused():
    photo("photos/a.jpg", 50, 40)
    with pytest.raises(UsageError, match="masks is not a folder"):
        masks_of()
    mask("masks/b.png", 50, 40, slice(10))
    with pytest.raises(UsageError, match=r"any of the 1 images; that of photos/a\.jpg.*masks/a\.png"):
        masks_of()


def test_whatever_is_not_black_is_inside():
    photo("photos/a.jpg", 4, 4)
    dark_blue = np.zeros((4, 4, 3), dtype=np.uint8)
    dark_blue[:2, :, 2] = 1  # its grey value is 0
    transparent = np.full((4, 4, 4), 255, dtype=np.uint8)
    transparent[2:, :, 3] = 0
    low_bits = np.zeros((4, 4), dtype=np.uint16)
    low_bits[:2] = 1
    for values in (dark_blue, transparent, low_bits, dark_blue[..., 2] > 0):
        save("masks/a.png", values)
        assert masks_of(size_px=4).of("photos/a.jpg").tolist() == [[True] * 4] * 2 + [[False] * 4] * 2


def test_images_in_memory_have_masks_and_transformed_ones_are_refused():
    mask("masks/00003.png", 28, 28, slice(14))
    images = spread(FashionMNIST().test_set)
    assert MaskFolder("masks", images).of("fashion_mnist/test/00003")[:, :14].all()
    mask("masks/00003.png", 32, 32, slice(14))
    with pytest.raises(UsageError, match="32 x 32 pixels and its image fashion_mnist/test/00003 is 28 x 28"):
        MaskFolder("masks", images)
    flipped = FashionMNIST(eval_transform=v2.RandomHorizontalFlip(1.0))
    with pytest.raises(UsageError, match="a transform of their data set"):
        MaskFolder("masks", spread(flipped.test_set))
