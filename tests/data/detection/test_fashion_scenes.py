import numpy as np
import pytest
import torch

from cbam_lightning.data import FashionScenes
from cbam_lightning.errors import UsageError
from tests.data.generate import photographs, save_image

SMALL = {"num_images": 20, "num_test_images": 6, "size_px": 64, "batch_size": 4}


def images(dataset):
    return torch.stack(dataset[range(len(dataset))].batch.images)


def test_splits_and_names():
    data = FashionScenes(**SMALL)
    data.setup()
    assert [len(data.split_set(split)) for split in ("train", "val", "test", "predict")] == [18, 2, 6, 6]
    names = [
        data.sample_name(split, i) for split in ("train", "val") for i in range(len(data.split_set(split)))
    ]
    assert sorted(names) == [f"fashion_scenes/train/{i:05d}" for i in range(20)]
    assert data.sample_name("test", 5) == "fashion_scenes/test/00005"
    (batch,) = [loaded.batch for loaded in list(data.test_dataloader())[1:]]
    assert batch.image_ids.tolist() == [5, 6]
    assert batch.original_sizes.tolist() == [[64, 64]] * 2
    assert all(target["labels"].min() >= 1 and target["labels"].max() <= 10 for target in batch.targets)


def test_scenes_follow_from_their_seed_and_fewer_are_the_first_of_more():
    first = FashionScenes(**SMALL)
    torch.manual_seed(9)
    more = FashionScenes(**SMALL | {"num_images": 25, "num_test_images": 9})
    other = FashionScenes(**SMALL, scene_seed=1)
    assert torch.equal(images(first.test_set), images(more.test_set)[:6])
    assert not torch.equal(images(first.test_set), images(other.test_set))
    few, many = (data.load_part(train=True).objects.boxes for data in (first, more))
    assert torch.equal(few, many[: len(few)])


@pytest.mark.parametrize("channels", [1, 3])
def test_garments_and_photographs_of_the_test_are_others(channels):
    data = FashionScenes(in_channels=channels)
    parts = [data._maker(train) for train in (True, False)]
    clothes = [{garment.tobytes() for garment in part.clothes} for part in parts]
    assert not clothes[0] & clothes[1]
    assert [len(part.clothes) for part in parts] == [10_000, 2_000]
    for left, right, whole in zip(*(part.photographs for part in parts), photographs(), strict=True):
        assert left.shape == (427, 448, channels)
        assert right.shape == (427, 192, channels)
        if channels == 3:  # decoders round differently
            joined = np.concatenate([left, right], 1).astype(int)
            assert np.abs(joined - whole).mean() < 1


def test_grey_scenes_have_one_channel_and_its_statistics():
    data = FashionScenes(**SMALL, in_channels=1)
    assert images(data.test_set).shape == (6, 1, 64, 64)
    assert data.mean == pytest.approx(((0.485 + 0.456 + 0.406) / 3,))
    assert len(data.std) == 1
    colour = FashionScenes(**SMALL)
    assert colour.mean == (0.485, 0.456, 0.406)
    assert torch.equal(data.test_set.annotations.objects.boxes, colour.test_set.annotations.objects.boxes)


def test_photographs_of_the_user(tmp_path):
    save_image(np.full((50, 100, 3), (10, 200, 30), dtype=np.uint8), tmp_path / "grass.png")
    data = FashionScenes(**SMALL, num_garments=(0, 1), photographs=str(tmp_path), keep_negatives=True)
    empty = [i for i in range(6) if not len(data.test_set.annotations.of_image(i).labels)]
    assert empty
    assert all((images(data.test_set)[i] == torch.tensor([10, 200, 30])[:, None, None]).all() for i in empty)
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(UsageError, match=r"cannot use the photograph .*notes\.txt: its name is not that of"):
        FashionScenes(**SMALL, photographs=str(tmp_path)).setup()
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match=r"photographs .*none is an empty folder; give"):
        FashionScenes(**SMALL, photographs=str(tmp_path / "none")).setup()
    with pytest.raises(UsageError, match=r"photographs .*nowhere does not exist; give"):
        FashionScenes(**SMALL, photographs="nowhere").setup()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size_px": 16}, "size_px is 16; allowed: 32 or more"),
        ({"num_images": 0}, "num_images is 0"),
        ({"num_test_images": 0}, "num_test_images is 0"),
        ({"num_garments": (3, 2)}, r"num_garments is \(3, 2\); allowed: two ascending numbers from 0"),
        ({"num_garments": (0, 0)}, r"num_garments is \(0, 0\)"),
        ({"scene_seed": -1}, "scene_seed is -1"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        FashionScenes(**options)
