import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from cbam_lightning.data import CIFAR10, FashionMNIST, ImageFolder
from cbam_lightning.data.cropping import EvalTransform
from cbam_lightning.data.packed.packing import pack
from cbam_lightning.errors import UsageError
from tests.callbacks.resume.interrupting import Crash, CrashHere, at, differences
from tests.command import SHORT, SMALL, call, only_run
from tests.data.generate import write_image_folder
from tests.data.own import Returns, Solarise, Speckle
from tests.data.probing import Probe, trainer

RANDOM = [v2.RandAugment(), v2.TrivialAugmentWide(), v2.ColorJitter(0.4), v2.RandomErasing(), Speckle()]


@pytest.fixture
def pets(tmp_path):
    return write_image_folder(tmp_path / "pets")


def folder(path, transform, **options):
    torch.manual_seed(0)
    options = {"size_px": 24, "batch_size": 6, "num_workers": 0} | options
    return ImageFolder(str(path), train_transform=transform, **options)


def literally(image, seed, steps):
    """Apply transforms to an image, with all generators seeded for it."""
    random.seed(seed)
    np.random.seed(seed >> 32)  # noqa: NPY002
    torch.manual_seed(seed)  # as torch.Generator.manual_seed
    for step in steps:
        image = step(image)
    return image


def test_pixels_are_those_of_the_transforms_under_the_images_seed(pets):
    data = folder(pets, RANDOM)
    batches = list(data.train_dataloader())
    order = data.train_order(data.train_set)
    for draws, batch in zip(order, batches, strict=True):
        for draw, image in zip(draws, batch.images, strict=True):
            decoded = data.train_set.read(draw.position)
            state = torch.get_rng_state()
            expected = EvalTransform(24, 24)(literally(decoded, draw.seed, RANDOM))
            torch.set_rng_state(state)
            assert torch.equal(image, expected)


def test_images_in_memory_go_one_by_one():
    torch.manual_seed(0)
    data = FashionMNIST(train_transform=RANDOM, batch_size=4, num_workers=0)
    (draws, batch) = next(zip(data.train_order(data.train_set), data.train_dataloader(), strict=True))
    images, _ = data.load_part(train=True)
    for draw, image, label in zip(draws, batch.images, batch.labels, strict=True):
        name = data.sample_name("train", draw.position)
        decoded = images[int(Path(name).name)]
        assert torch.equal(image, literally(decoded, draw.seed, RANDOM))
        assert label == data.train_set.labels[draw.position]
    assert torch.equal(next(iter(data.val_dataloader())).images, FashionMNIST().val_set[range(4)].images)


def test_worker_processes_and_breaks_change_nothing(pets):
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    alone = list(folder(pets, RANDOM).train_dataloader())
    after = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    assert after == before[:2]
    shared = list(folder(pets, RANDOM, num_workers=2).train_dataloader())
    resumed = folder(pets, RANDOM).train_dataloader()
    resumed.load_state_dict({"epoch": 0, "batches": 2})
    for batches in (shared, [*alone[:2], *resumed]):
        assert len(batches) == len(alone) == 4
        for one, other in zip(batches, alone, strict=True):
            assert torch.equal(one.images, other.images)


def test_packed_images_are_changed_as_files_are(pets):
    pack(ImageFolder(str(pets)), "packed", num_workers=1)
    files, packed = (list(folder(root, RANDOM).train_dataloader()) for root in (pets, "packed"))
    for one, other in zip(files, packed, strict=True):
        assert torch.equal(one.images, other.images)


def test_evaluation_and_prediction_are_changed_the_same_every_time(pets):
    chosen = Solarise(100)
    data = ImageFolder(str(pets), size_px=24, eval_transform=[chosen, Speckle()], predict_path=str(pets))
    for split in ("val", "test", "predict"):
        dataset = data.split_set(split)
        image, again = (dataset[0].images[0] for _ in range(2))
        assert torch.equal(image, again)
        expected = EvalTransform(24, 24)(chosen(dataset.read(0)))
        assert torch.equal(image[:, 1:], expected[:, 1:])
    crop = ImageFolder(str(pets), size_px=24, eval_transform=v2.CenterCrop(24)).val_set
    assert torch.equal(crop[0].images[0], v2.functional.center_crop(crop.read(0), [24, 24]))
    whole = ImageFolder(str(pets), size_px=24, train_transform=[]).train_set  # nothing random at all
    assert torch.equal(whole[0].images[0], EvalTransform(24, 24)(whole.read(0)))


@pytest.mark.parametrize(
    "convert",
    [
        lambda image: image.float() / 255,
        v2.ToDtype(torch.float64, scale=True),
        v2.ToPILImage(),
        v2.ToImage(),
        lambda image: image.permute(1, 2, 0).numpy(),
    ],
)
def test_results_of_every_kind_train_as_the_same_image(pets, convert):
    probes = []
    for transform in ([], [convert]):
        probes.append(Probe(3, 3))
        trainer(limit_val_batches=0).fit(probes[-1], folder(pets, transform))
    for one, other in zip(*(probe.seen["train"] for probe in probes), strict=True):
        torch.testing.assert_close(one.images, other.images, rtol=0, atol=0.02)  # 1/510 of rounding
        assert one.images.dtype == torch.float32


def test_floats_of_some_images_do_not_darken_the_others(pets):
    sometimes = v2.RandomApply([v2.ToDtype(torch.float32, scale=True)], p=0.5)
    (mixed, plain) = (next(iter(folder(pets, [t]).train_dataloader())) for t in (sometimes, v2.Identity()))
    assert mixed.images.dtype == torch.float32
    torch.testing.assert_close(mixed.images, plain.images / 255, rtol=0, atol=1e-2)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a text", "returned an object of type str; allowed: a PIL image, an array"),
        (lambda image: image.float() - 300, "returned floats from -294 to -270; .*, which the data"),
        (lambda image: image[:1], r"returned a tensor \(1, 40, 52\) of uint8; .* as in_channels is 3"),
        (
            lambda image: image.nope,
            r"raised AttributeError: .* \(.*test_user_transforms\.py, line \d+\); ",
        ),
    ],
)
def test_a_wrong_result_is_one_line(pets, value, text):
    with pytest.raises(UsageError, match=r"^--data\.train_transform Returns " + text) as caught:
        next(iter(folder(pets, [Solarise(), Returns(value)]).train_dataloader()))
    assert "\n" not in str(caught.value)


def test_torchvisions_own_complaints_are_one_line(pets):
    with pytest.raises(UsageError, match=r"Normalize raised TypeError: Input .* was a tensor \(3, 40"):
        next(iter(folder(pets, v2.Normalize([0.5], [0.5])).train_dataloader()))


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (v2.RandAugment, "train_transform is the class RandAugment; allowed: a callable object"),
        ([5], "train_transform is 5; allowed"),
    ],
)
def test_what_is_no_transform_is_refused(given, text):
    with pytest.raises(UsageError, match=text):
        CIFAR10(train_transform=given)


@pytest.mark.slow
def test_the_command_takes_them_from_yaml_and_resumes_exactly(pets):
    for name in ("cat/000.jpg", "dog/001.jpg"):  # of unequal size
        with Image.open(pets / name) as image:
            smaller = image.resize((60, 31))
        smaller.save(pets / name)
    Path("own.yaml").write_text(
        """
data:
  class_path: ImageFolder
  init_args:
    root: pets
    size_px: 16
    batch_size: 4
    num_workers: 2
    balanced: true
    train_transform:
      - {class_path: RandAugment, init_args: {magnitude: 5}}
      - TrivialAugmentWide
      - {class_path: tests.data.own.Solarise, init_args: {threshold: 200}}
      - {class_path: ColorJitter, init_args: {brightness: 0.4}}
      - RandomErasing
    eval_transform: RGB
"""
    )
    words = f"fit {SHORT} --config own.yaml --model.network resnet20 --wandb.enabled false"
    assert call(words, "--run.name whole --run.test_after_fit false") == 0
    saved = "runs/own/whole/config.yaml"
    again = f"fit --config {saved} --run.name again --run.test_after_fit false"
    with pytest.raises(Crash):
        call(again, at(CrashHere, 0, 1), "--save.every_steps 1")
    assert call("resume runs/own/again") == 0
    assert differences(Path("runs/own/whole"), Path("runs/own/again")) == []


def test_the_command_line_takes_one_by_its_name():
    words = "--data.train_transform ColorJitter --data.train_transform.brightness 0.4 --data.num_workers 0"
    sampler = "--data.sampler tests.data.own.Some --data.sampler.count 128 --run.test_after_fit false"
    assert call("fit", SMALL, SHORT, words, sampler, "--wandb.enabled false") == 0
    assert "ColorJitter" in (only_run() / "config.yaml").read_text()
