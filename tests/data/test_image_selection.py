"""Selected images: which ones, with which classes, and how they are cropped."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cbam_lightning.data import FashionMNIST
from cbam_lightning.data.bad_images import BadImageLog
from cbam_lightning.data.image_selection import open_image_files, spread
from cbam_lightning.errors import UsageError


def save(path, shade, size=(40, 30)):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade,) * 3).save(path)


def seen(dataset, limit=None, size=2):
    return [one for batch in spread(dataset, limit).batches(size) for one in batch]


def test_images_of_a_split_are_spread_evenly():
    test_set = FashionMNIST().test_set
    images = seen(test_set, 4, size=3)
    assert [one.name for one in images] == [f"fashion_mnist/test/{i:05d}" for i in (0, 500, 1000, 1500)]
    batch = test_set[[0, 500, 1000, 1500]]
    assert [one.label for one in images] == batch.labels.tolist()
    assert torch.equal(torch.stack([one.image for one in images]), batch.images)
    assert len(spread(test_set)) == 2000


def test_class_folders_give_classes_and_other_folders_none():
    for label, name in enumerate(("cat", "dog")):
        for i in range(3):
            save(f"pets/{name}/{i}.png", 100 * label)
    images = seen(open_image_files("pets", 24, 3, ("dog", "cat", "fox")), 2)
    assert [(one.name, one.label) for one in images] == [("pets/cat/0.png", 1), ("pets/dog/0.png", 0)]
    assert {one.label for one in seen(open_image_files("pets", 24, 3, ("bird", "fox")))} == {-1}
    assert [one.label for one in seen(open_image_files("pets/dog/1.png", 24, 3, ("dog", "cat")))] == [-1]


def test_a_note_beside_the_class_folders_takes_no_class_away_and_another_folder_is_told():
    for name in ("cat", "dog"):
        save(f"pets/{name}/0.png", 1)
    Path("pets/readme.txt").write_text("x")
    assert open_image_files("pets", 24, 3, ("dog", "cat")).labels.tolist() == [1, 0, -1]
    save("pets/unknown/0.png", 7)
    with pytest.warns(UserWarning, match="also unknown: no image has a class"):
        assert set(open_image_files("pets", 24, 3, ("dog", "cat")).labels.tolist()) == {-1}


def test_small_networks_see_whole_images_and_large_ones_the_centre():
    columns = np.arange(64, dtype=np.uint8).repeat(64).reshape(64, 64).T
    Image.fromarray(columns).save("ramp.png")
    (small,) = seen(open_image_files("ramp.png", 64, 1))
    assert torch.equal(small.image[0], torch.tensor(columns))
    Image.fromarray(columns).resize((256, 256), Image.Resampling.NEAREST).save("large.png")
    (large,) = seen(open_image_files("large.png", 224, 1))
    assert large.image.shape == (1, 224, 224)
    assert (int(large.image[0, 0, 0]), int(large.image[0, 0, -1])) == (4, 59)


def test_mistakes_are_told():
    with pytest.raises(UsageError, match="--images nowhere does not exist"):
        open_image_files("nowhere", 24, 3)
    save("photos/a.png", 3)
    Path("photos/b.png").write_text("no image")
    with pytest.raises(UsageError, match=r"cannot decode photos/b\.png"):
        seen(open_image_files("photos", 24, 3))
    problems = BadImageLog("skip")
    kept = [one for batch in spread(open_image_files("photos", 24, 3)).batches(1, problems) for one in batch]
    assert [one.name for one in kept] == ["photos/a.png"]
    assert problems.reasons == {"photos/b.png": "not an image of a known format"}
    with pytest.raises(UsageError, match="limit"):
        spread(open_image_files("photos", 24, 3), 0)
