import warnings

import pytest
import torch
from jsonargparse import ArgumentError, ArgumentParser
from pytorch_lightning import Trainer

from cbam_lightning.data import FashionMNIST, ImageDataModule, ImageFolder
from cbam_lightning.errors import UsageError
from tests.data.generate import patches, save_image, write_image_folder
from tests.data.probing import Probe, trainer


@pytest.fixture
def pets(tmp_path):
    """Three classes of ten images; two of them cannot be decoded."""
    root = write_image_folder(tmp_path / "pets")
    (root / "cat" / "003.jpg").write_text("no image")
    content = (root / "dog" / "004.jpg").read_bytes()
    (root / "dog" / "004.jpg").write_bytes(content[: len(content) // 2])
    return root


def test_shuffling_follows_the_global_seed_and_covers_full_batches():
    orders = []
    for seed in (0, 0, 1):
        data = FashionMNIST(batch_size=128)
        torch.manual_seed(seed)
        orders.append(torch.cat([batch.indices for batch in data.train_dataloader()]).tolist())
    assert len(orders[0]) == len(set(orders[0])) == 9000 // 128 * 128
    assert orders[0] == orders[1] != orders[2]
    validation = torch.cat([batch.indices for batch in data.val_dataloader()])
    assert validation.tolist() == list(range(1000))


def test_an_incomplete_batch_stays_if_it_is_the_only_one(tmp_path):
    data = ImageFolder(str(write_image_folder(tmp_path)), size_px=32, num_workers=0)
    (batch,) = data.train_dataloader()
    assert len(batch.images) == 24


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bad_image_stops_with_one_line(pets, num_workers):
    data = ImageFolder(str(pets), size_px=32, num_workers=num_workers, batch_size=4, test_fraction=0.5)
    data.predict_path = str(pets)
    with pytest.raises(
        UsageError, match=r"^cannot decode .*cat/003\.jpg: not an image of a known format; "
    ) as caught:
        trainer().predict(Probe(3, 3), data)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("delete or replace the file, or set --data.on_bad_image skip")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_skipped_images_are_counted_once_and_reported_once(pets, num_workers):
    data = ImageFolder(
        str(pets),
        size_px=32,
        num_workers=num_workers,
        batch_size=4,
        on_bad_image="skip",
        predict_path=str(pets),
    )
    probe = Probe(3, 3)
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        trainer().predict(probe, data)
        trainer().predict(probe, data)
    messages = [str(w.message) for w in record if "skipped" in str(w.message)]
    bad = [str(pets / "cat" / "003.jpg"), str(pets / "dog" / "004.jpg")]
    assert data.skipped_images == bad
    assert len(messages) == 1
    assert messages[0].startswith("skipped 2 files that are not a readable image: ")
    assert all(path in messages[0] for path in bad)
    seen = torch.cat([batch.indices for batch in probe.seen["predict"][: len(probe.seen["predict"]) // 2]])
    assert seen.tolist() == [i for i in range(30) if i not in (3, 14)]
    assert all(batch.labels.eq(-1).all() for batch in probe.seen["predict"])


def test_a_batch_without_any_image_left_is_empty_but_whole(pets):
    data = ImageFolder(
        str(pets),
        size_px=32,
        num_workers=0,
        batch_size=1,
        on_bad_image="skip",
        predict_path=str(pets / "cat"),
    )
    probe = Probe(3, 3)
    with pytest.warns(
        UserWarning, match=r"skipped 1 file that is not .*003\.jpg \(not an image of a known format\)"
    ):
        trainer().predict(probe, data)
    assert [len(batch.images) for batch in probe.seen["predict"]] == [1, 1, 1, 0, 1, 1, 1, 1, 1, 1]
    empty = probe.seen["predict"][3]
    assert empty.images.shape == (0, 3, 32, 32)
    assert empty.images.dtype == torch.float32


def test_a_file_that_cannot_be_read_is_a_machine_failure(tmp_path):
    data = ImageFolder(str(write_image_folder(tmp_path)), size_px=32, num_workers=0, on_bad_image="skip")
    data.setup("test")
    for path in tmp_path.rglob("*.jpg"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"No such file or directory: .*\.jpg"):
        trainer().test(Probe(3, 3), data)


def test_predicts_files_of_any_size_as_in_evaluation(tmp_path):
    for i, (height, width) in enumerate([(30, 90), (200, 100), (28, 28)]):
        save_image(patches(1, height, width)[0], tmp_path / f"{i}.png")
    data = FashionMNIST(predict_path=str(tmp_path), num_workers=0)
    (batch,) = data.predict_dataloader()
    assert batch.images.shape == (3, 1, 28, 28)
    assert batch.labels.tolist() == [-1, -1, -1]
    assert data.sample_name("predict", 1) == str(tmp_path / "1.png")
    assert FashionMNIST().predict_set.part == "fashion_mnist/test"


def test_setup_loads_what_a_stage_needs_once():
    data = FashionMNIST()
    data.setup("test")
    test_set = data.test_set
    assert "train_set" not in vars(data)
    data.setup("fit")
    data.setup()
    assert data.test_set is test_set
    assert "predict_set" in vars(data)


def test_overfitting_sees_the_same_images_every_epoch():
    data, probe = FashionMNIST(batch_size=16, hflip=False), Probe(1, 10)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    run = Trainer(accelerator="cpu", max_epochs=2, overfit_batches=2, enable_model_summary=False, **quiet)
    run.fit(probe, data)
    epochs = [torch.cat([b.indices for b in probe.seen["train"][i : i + 2]]).tolist() for i in (0, 2)]
    assert epochs[0] == epochs[1] == list(range(32))


def test_the_seed_goes_with_the_checkpoint():
    torch.manual_seed(3)
    data, other = FashionMNIST(), FashionMNIST()
    state = data.state_dict()
    torch.manual_seed(4)
    other.load_state_dict(state)
    orders = [[b.indices.tolist() for b in module.train_dataloader()] for module in (data, other)]
    assert orders[0] == orders[1]


def test_loaders_keep_their_workers():
    data = FashionMNIST(num_workers=1)
    assert data.val_dataloader().persistent_workers
    assert FashionMNIST().val_dataloader().num_workers == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, r"batch_size is 0; allowed: 1 or more\. Change it with --data\.batch_size\."),
        ({"num_workers": -1}, "num_workers is -1; allowed: 0 or more, or null"),
        ({"val_fraction": 1.0}, "val_fraction is 1.0; allowed: 0 or more, and less than 1"),
        ({"val_fraction": float("nan")}, "val_fraction is nan"),
        ({"mixup_alpha": -0.1}, "mixup_alpha is -0.1; allowed: 0 or more"),
        ({"cutmix_alpha": -1.0}, "cutmix_alpha is -1.0"),
        ({"crop_padding_px": -1}, "crop_padding_px is -1"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        FashionMNIST(**options)


COMMON = {
    "train_transform": {"class_path": "tests.data.own.Solarise", "init_args": {"threshold": 3}},
    "eval_transform": {"class_path": "tests.data.own.Solarise", "init_args": {"threshold": 9}},
    "balanced": True,
    "sampler": {"class_path": "tests.data.own.Some", "init_args": {"count": 5}},
    "batch_size": 7,
    "global_batch_size": 14,
    "num_workers": 1,
    "val_fraction": 0.25,
    "split_seed": 3,
    "mixup_alpha": 0.2,
    "cutmix_alpha": 1.0,
    "predict_path": "photos",
    "on_bad_image": "skip",
}
ARRAY = {"root": "here", "download": True, "crop_padding_px": 3, "hflip": False, "on_device": False}
FILES = {"root": "here", "size_px": 64, "crop_scale": (0.2, 0.9), "hflip": False}
PARTS, PHOTOS = ("train", "val", "test"), {"count": 3, "width": 24, "height": 20}
OPTIONS = {
    "FashionMNIST": ARRAY | {"source": "full"},
    "CIFAR10": ARRAY,
    "CIFAR100": ARRAY,
    "ImageNet": FILES,
    "ImageFolder": FILES
    | {"in_channels": 1, "mean": (0.5,), "std": (0.2,), "test_fraction": 0.3, "images_per_class": 2},
    "TorchDataset": {
        **{name: FILES[name] for name in ("size_px", "crop_scale", "hflip")},
        **{"in_channels": 1, "mean": (0.5,), "std": (0.2,), "num_classes": 2, "class_names": ["cat", "dog"]},
        **{part: {"class_path": "tests.data.own.Photos", "init_args": PHOTOS} for part in PARTS},
    },
}


@pytest.fixture
def parser():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ImageDataModule, "data", fail_untyped=False)  # as in the command
    return parser


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_set_from_yaml_and_none_is_forgotten(parser, name):
    options = OPTIONS[name] | COMMON
    config = parser.parse_object({"data": {"class_path": name, "init_args": options}})
    assert config.data.init_args.as_dict() == options


@pytest.mark.parametrize("name", OPTIONS)
def test_an_unknown_option_is_refused(parser, name):
    required = {option: OPTIONS[name][option] for option in OPTIONS[name].keys() & {"root", "train"}}
    with pytest.raises(ArgumentError, match="batchsize"):
        parser.parse_object({"data": {"class_path": name, "init_args": required | {"batchsize": 7}}})


@pytest.mark.parametrize("name", OPTIONS)
def test_help_explains_every_option(parser, name, capsys):
    with pytest.raises(SystemExit):
        parser.parse_args([f"--data.help={name}"])
    text = " ".join(capsys.readouterr().out.split())
    for option in OPTIONS[name] | COMMON:
        described = text.rpartition(f"--data.{option} ")[2]
        assert described.index("(type: ") > 20, option


def test_no_warning_without_skipped_images():
    data = FashionMNIST()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.teardown("fit")
    assert data.skipped_images == []
