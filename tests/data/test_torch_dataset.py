from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset
from torchvision.datasets import ImageFolder as TorchvisionFolder
from torchvision.transforms import v2

from cbam_lightning.data import FashionMNIST, ImageFolder, TorchDataset
from cbam_lightning.errors import UsageError
from tests.callbacks.resume.interrupting import Crash, CrashHere, at, differences
from tests.command import SHORT, call
from tests.data.generate import patches, save_image, write_image_folder
from tests.data.own import Faulty, Items, Noisy, Photos, Returns, Stream
from tests.data.probing import Probe, trainer


def pixels(array):
    return torch.from_numpy(array).permute(2, 0, 1)


def items(*labels, **attributes):
    return Items([(image, label) for image, label in zip(patches(len(labels), 8, 8), labels, strict=True)])


def data_of(train, **options):
    torch.manual_seed(0)
    return TorchDataset(train, **{"num_workers": 0, "batch_size": 4} | options)


def test_items_are_split_and_reach_the_batches_as_they_are():
    photos = Photos()
    data = data_of(photos, val_fraction=0.2)
    assert (data.num_classes, data.class_names) == (3, ("0", "1", "2"))
    assert (data.size_px, data.image_size, data.dataset_name) == (None, (20, 24), "photos")
    splits = [data.split_set(split) for split in ("train", "val", "test")]
    assert [s.labels.bincount().tolist() for s in splits] == [[8, 8, 8], [2, 2, 2], [2, 2, 2]]
    places = [[int(s.name(i).removeprefix("photos/train/")) for i in range(len(s))] for s in splits]
    assert places[1] == places[2]
    assert sorted(places[0] + places[1]) == list(range(30))
    for batch in data.train_dataloader():
        for image, label, index in zip(batch.images, batch.labels, batch.indices, strict=True):
            place = places[0][index]
            assert torch.equal(image, pixels(photos.images[place]))
            assert label == place % 3


def test_sets_of_their_own_for_each_split():
    train, val, test = Photos(9, 20), Photos(6, 20), Photos(3, 20)
    data = data_of(train, val=val, test=test)
    assert [len(data.split_set(s)) for s in ("train", "val", "test", "predict")] == [9, 6, 3, 3]
    assert data.sample_name("test", 2) == "photos/test/00002"
    assert data.size_px == 20
    assert [len(data_of(train, val=val).split_set(s)) for s in ("train", "val", "test")] == [9, 6, 6]
    without = data_of(train, test=test, val_fraction=0)
    assert [len(without.split_set(s)) for s in ("train", "val", "test")] == [9, 3, 3]


def test_it_trains_as_image_folder_does(tmp_path):
    root = write_image_folder(tmp_path)
    options = {"size_px": 24, "batch_size": 4, "num_workers": 0, "val_fraction": 0.2}
    batches = []
    files = TorchvisionFolder(str(root))
    ours = ImageFolder(str(root), **options, test_fraction=0.1)
    rest = [files.imgs.index((path, label)) for path, label in files.imgs if path in _paths(ours)]
    for data in (ours, TorchDataset(Subset(files, rest), val=files, **options)):
        torch.manual_seed(0)
        batches.append([data.on_before_batch_transfer(b, 0) for b in data.train_dataloader()])
    assert data.class_names == ours.class_names
    assert [data.sample_name("train", i) for i in range(21)] == _paths(ours)
    assert (data.mean, data.std) == (ours.mean, ours.std)
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one.indices, other.indices)
        assert torch.equal(one.labels, other.labels)
        # Pillow and torchvision decode a JPEG with other rounding
        torch.testing.assert_close(one.images.int(), other.images.int(), rtol=0, atol=4)


def _paths(data):
    return [data.sample_name("train", i) for i in range(len(data.train_set))]


def test_what_is_drawn_within_an_item_follows_from_seed_epoch_and_image():
    options = {"batch_size": 6, "val": Photos(3, 20)}
    epochs = {n: data_of(Noisy(), num_workers=n, **options).train_dataloader() for n in (0, 2)}
    alone, shared = ([list(loader) for _ in range(2)] for loader in epochs.values())
    resumed = data_of(Noisy(), **options).train_dataloader()
    resumed.load_state_dict({"epoch": 1, "batches": 2})
    for one, other in zip([*alone[0], *alone[1]], [*shared[0], *shared[1]], strict=True):
        assert torch.equal(one.images, other.images)
    for one, other in zip(alone[1][2:], resumed, strict=True):
        assert torch.equal(one.images, other.images)
    noise = [torch.cat([b.images[b.indices.argsort(), 0, 0, :3] for b in epoch]) for epoch in alone]
    assert len(noise[0].unique(dim=0)) == 30
    assert (noise[0] != noise[1]).any(0).all()


def test_labels_are_read_only_if_nothing_says_them():
    plain = items(0, 1, 2, 0, 1, 2)
    data_of(plain, val=items(0, 1), class_names=["cat", "dog", "fox"])
    assert plain.reads <= 2
    data_of(plain, val=items(0, 1), num_classes=3)
    assert plain.reads <= 4
    for name, value in {"targets": [0, 1, 2, 0, 1, 2], "labels": np.array([0, 1, 2, 0, 1, 2])}.items():
        listed = items(0, 1, 2, 0, 1, 2)
        setattr(listed, name, value)
        assert data_of(listed, val_fraction=0.5).train_set.labels.tolist() == [0, 1, 2]
        assert listed.reads <= 2
    for wrong in ([0, 1], ["a"] * 6, None, [0.5] * 6):
        read = Items(plain.items, targets=wrong)
        assert data_of(read, val_fraction=0.5).num_classes == 3
        assert read.reads >= 6
    moved = Items(plain.items, targets=[5] * 6, target_transform=lambda label: label)
    assert data_of(moved, val_fraction=0.5).num_classes == 3


def test_labels_of_many_types():
    given = [0, np.int64(1), torch.tensor(2), np.array(1), True, torch.tensor(0, dtype=torch.uint8)]
    data = data_of(items(*given), val=items(0))
    assert data.train_set.labels.tolist() == [0, 1, 2, 1, 1, 0]
    named = Items(items(0, 1).items, classes=["cat", "dog"])
    assert data_of(named, val=items(0)).class_names == ("cat", "dog")


def test_floats_that_are_normalised_already_stay_as_they_are():
    train = Items([(torch.randn(3, 6, 6) * 5, i % 2) for i in range(8)])
    data, probe = data_of(train, val=train, mean=(0, 0, 0), std=(1, 1, 1)), Probe(3, 2)
    trainer(limit_val_batches=0).fit(probe, data)
    for batch in probe.seen["train"]:
        for image, index in zip(batch.images, batch.indices, strict=True):
            assert torch.equal(image, train.items[index][0])


def test_sizes_come_from_the_option_or_a_transform(tmp_path):
    mixed = Items([(image, i % 2) for i, image in enumerate([*patches(4, 20, 30), *patches(4, 40, 24)])])
    assert data_of(mixed, size_px=16).train_set[range(6)].images.shape == (6, 3, 16, 16)
    cut = {"train_transform": v2.RandomResizedCrop(12), "eval_transform": v2.CenterCrop(12)}
    data = data_of(mixed, **cut)
    assert data.size_px == 12
    assert data.train_set[range(6)].images.shape == (6, 3, 12, 12)
    assert torch.equal(data.val_set[0].images[0], v2.CenterCrop(12)(pixels(mixed.items[_place(data)][0])))
    save_image(patches(1, 30, 50)[0], tmp_path / "new.png")
    data.predict_path = str(tmp_path)
    assert data.predict_set[0].images.shape == (1, 3, 12, 12)


def _place(data):
    return int(Path(data.sample_name("val", 0)).name)


def test_grey_images_and_a_set_as_it_came_from_fashion_mnist():
    ours = FashionMNIST(hflip=False, crop_padding_px=0)
    images, labels = ours.load_part(train=False)
    pictures = [Image.fromarray(image[0].numpy()) for image in images]
    train = Items(list(zip(pictures, labels, strict=True)), targets=labels)
    data = data_of(train, in_channels=1, test=train, val_fraction=0)
    assert torch.equal(data.test_set[range(50)].images, ours.test_set[range(50)].images)
    assert (data.size_px, data.num_classes) == (28, 10)
    assert data.mean == (pytest.approx(0.449),)


@pytest.mark.parametrize(
    ("train", "text"),
    [
        (Items([patches(1, 8, 8)[0]]), r"Items: item 0 is a ndarray; allowed: a pair \(image, label\)"),
        (Items([(1, 2, 3)]), "item 0 is 3 values; allowed: a pair"),
        (items(0, "rose"), "item 1 has the label 'rose'; allowed: an integer from 0, 1, 2"),
        (items(0, 1.0), r"item 1 has the label 1\.0; allowed"),
        (items(0, -1), "item 1 has the label -1; allowed"),
        (items(0, torch.zeros(2)), r"item 1 has the label tensor\(\[0\., 0\.\]\); allowed"),
        (Items([("a.png", 0)]), "item 0 has an object of type str as its image; allowed: a PIL image, an"),
        (
            Items([(patches(1, 8, 8)[0][..., 0], 0)]),
            r"an array \(8, 8\) of uint8 as its image; .* as in_channels is 3",
        ),
        (Items([KeyError("x")]), r"item 0 raised KeyError: 'x' \(.*own\.py, line \d+\)\."),
        (Items([]), "Items is empty; allowed: a map-style torch.utils.data.Dataset"),
        (Stream(), r"Stream has no item numbers \(IterableDataset\); allowed: a map-style"),
        (Photos, "Photos is not a data set; allowed"),
        (5, "int is not a data set"),
        (items(0, 0), "num_classes is 1; allowed: 2 or more"),
        (
            Items(items(0, 1).items, targets=[0, 9], classes=["a", "b"]),
            "item 1 has the label 9; .* 0 to 1, as",
        ),
    ],
)
def test_a_wrong_data_set_is_one_line(train, text):
    with pytest.raises(UsageError, match=text) as caught:
        TorchDataset(train, num_workers=0)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(("--data.train ", "num_classes"))


@pytest.mark.parametrize(
    ("fault", "options", "text"),
    [
        ("label", {}, "item 5 has the label 7; allowed: an integer from 0 to 2, as num_classes is 3"),
        (
            "size",
            {},
            r"item 5 is 20 x 16 pixels, and item 0 of --data\.train .*Photos is 20 x 20; give --data",
        ),
        ("size", {"train_transform": Returns(lambda image: image)}, None),
        ("channels", {"size_px": 16}, r"item 5 has an array \(20, 20, 2\)"),
        ("raises", {}, r"item 5 raised KeyError: 'raises' \(.*own\.py, line \d+\)"),
    ],
)
def test_a_wrong_item_is_named_when_it_is_read(fault, options, text):
    data = data_of(Photos(3, 20, 20), val=Faulty(fault), num_classes=3, **options)
    data.eval_transform = data.train_transform
    if text is None:  # a transform, even one that does nothing, is followed by the cut to one size
        assert data.val_set[5].images.shape == (1, 3, 20, 20)
        return
    with pytest.raises(UsageError, match=r"^--data\.val tests\.data\.own\.Faulty: " + text) as caught:
        list(data.val_dataloader())
    assert "\n" not in str(caught.value)


def test_what_cannot_be_told_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"val_fraction is 0; .* neither data\.val nor data\.test"):
        TorchDataset(Photos(), val_fraction=0)
    with pytest.raises(UsageError, match="num_classes is 5; allowed: 2, as many as class names"):
        TorchDataset(Photos(), num_classes=5, class_names=["cat", "dog"])
    with pytest.raises(UsageError, match="no item is left for val"):
        TorchDataset(items(0, 1)).setup("fit")
    with pytest.raises(UsageError, match=r"not square \(24 x 20 pixels\); give it with --data\.size_px"):
        TorchDataset(Photos(), predict_path=str(tmp_path)).setup("predict")
    with pytest.raises(UsageError, match=r"leaves an image of 4 x 8 pixels; allowed: 24 x 20"):
        _ = data_of(Photos(), train_transform=v2.CenterCrop((8, 4))).train_set[0]


@pytest.mark.slow
def test_the_command_takes_it_and_resumes_exactly():
    words = (
        "fit --data TorchDataset --data.train tests.data.own.Noisy --data.train.count 24 --data.batch_size 4 "
        "--data.num_workers 2 --data.mixup_alpha 0.2 --model.network resnet20 --wandb.enabled false "
        "--run.test_after_fit false"
    )
    assert call(words, SHORT, "--run.name whole") == 0
    again = "fit --config runs/default/whole/config.yaml --run.name again --save.every_steps 1"
    with pytest.raises(Crash):
        call(again, at(CrashHere, 0, 1))
    assert call("resume runs/default/again") == 0
    assert differences(Path("runs/default/whole"), Path("runs/default/again")) == []


def test_a_data_set_without_labels_ends_the_command_with_one_line(capsys):
    words = "fit --data TorchDataset --data.train tests.data.own.Faulty --data.train.fault 'no label'"
    assert call(words, "--data.train.position 0 --model.network resnet20 --wandb.enabled false") == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.endswith(
        "--data.train tests.data.own.Faulty: item 0 is a ndarray; allowed: a pair (image, label)."
    )
    assert not Path("runs").exists()
