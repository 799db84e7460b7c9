import json
import warnings
from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser
from pytorch_lightning import LightningModule, Trainer
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD

from cbam_lightning.data import (
    CocoDetection,
    DetectionBatch,
    DetectionDataModule,
    FashionScenes,
    VOCDetection,
)
from cbam_lightning.errors import UsageError
from tests.data.detection.written import voc_object, write_voc
from tests.data.generate import patches, save_image

SMALL = {"num_images": 20, "num_test_images": 7, "size_px": 48, "batch_size": 4}


class Probe(LightningModule):
    """Keeps the batches it gets."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = {"train": [], "val": [], "predict": []}

    def training_step(self, batch):
        self.seen["train"].append(batch)
        return self.weight * sum(image.mean() for image in batch.images)

    def validation_step(self, batch):
        self.seen["val"].append(batch)

    def predict_step(self, batch):
        self.seen["predict"].append(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(**options):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(accelerator="cpu", max_epochs=1, enable_model_summary=False, **quiet, **options)


def scenes(folder, layout, num_workers=0):
    torch.manual_seed(0)
    options = {"batch_size": 2, "num_workers": num_workers, "augmentation": "ssd", "size_px": 32}
    if layout == "coco":
        return CocoDetection(str(folder), val_fraction=0.1, **options)
    return VOCDetection(str(folder), years=(2007,), class_names=FashionScenes.class_names, **options)


def same(batches, others):
    return len(batches) == len(others) and all(
        torch.equal(a.batch.indices, b.batch.indices)
        and all(torch.equal(x, y) for x, y in zip(a.batch.images, b.batch.images, strict=True))
        and all(
            torch.equal(x[key], y[key])
            for x, y in zip(a.batch.targets, b.batch.targets, strict=True)
            for key in x
        )
        for a, b in zip(batches, others, strict=True)
    )


@pytest.mark.parametrize("layout", ["voc", "coco"])
def test_worker_processes_change_nothing(layout, request):
    folder = request.getfixturevalue(f"{layout}_scenes")
    loaders = [scenes(folder, layout, num_workers).train_dataloader() for num_workers in (0, 2)]
    epochs = [[list(loader) for _ in range(2)] for loader in loaders]
    for alone, shared in zip(*epochs, strict=True):
        assert same(alone, shared)
    assert not same(*epochs[0])


@pytest.mark.parametrize("batches", [1, 3])
def test_a_pass_goes_on_where_another_stopped(voc_scenes, batches):
    loader = scenes(voc_scenes, "voc").train_dataloader()
    list(loader)  # epoch 0
    torch.manual_seed(99)  # global generators have no say
    iterator = iter(loader)
    read = [next(iterator) for _ in range(batches)]
    resumed = scenes(voc_scenes, "voc").train_dataloader()
    resumed.load_state_dict(loader.state_dict())
    resumed.order.set_epoch(1)
    whole = scenes(voc_scenes, "voc").train_dataloader()
    whole.order.set_epoch(1)
    assert same(read + list(resumed), list(whole))
    assert len(loader) == 4


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_devices_share_the_images(split, monkeypatch):
    """Devices share the images round-robin: together their batches equal those of one device."""
    torch.manual_seed(0)
    one = FashionScenes(**SMALL | {"batch_size": 4, "augmentation": "ssd", "val_fraction": 0.25})
    joint = list(getattr(one, f"{split}_dataloader")())
    found = []
    for rank in (0, 1):
        monkeypatch.setattr(FashionScenes, "_devices", (2, rank))
        torch.manual_seed(0)
        data = FashionScenes(**SMALL | {"global_batch_size": 4, "augmentation": "ssd", "val_fraction": 0.25})
        found.append([loaded.batch for loaded in getattr(data, f"{split}_dataloader")()])
    assert len(found[0]) == len(found[1])
    seen = [i for batches in found for batch in batches for i in batch.indices.tolist()]
    count = {"train": 12, "val": 5, "test": 7}[split]  # training leaves out what fills no batch
    assert len(seen) == len(set(seen)) == count
    images = {
        i: image for own in found for b in own for i, image in zip(b.indices.tolist(), b.images, strict=True)
    }
    for loaded in joint:
        for i, image in zip(loaded.batch.indices.tolist(), loaded.batch.images, strict=True):
            assert torch.equal(images[i], image)


class WriteDown(Probe):
    """Records the images that this process trains and validates on."""

    def on_fit_end(self):
        for name in ("train", "val"):
            indices = [batch.indices.tolist() for batch in self.seen[name]]
            Path(f"{name}-{self.global_rank}.json").write_text(json.dumps(indices))


def test_two_processes_see_every_image_once():
    data = FashionScenes(**SMALL | {"global_batch_size": 6, "num_images": 30, "val_fraction": 0.2})
    trainer(strategy="ddp_fork", devices=2, num_sanity_val_steps=0).fit(WriteDown(), data)
    for name, count in (("train", 24), ("val", 6)):
        parts = [json.loads(Path(f"{name}-{rank}.json").read_text()) for rank in (0, 1)]
        assert len(parts[0]) == len(parts[1])
        assert sorted(i for batches in parts for batch in batches for i in batch) == list(range(count))


def test_images_become_fractions_and_boxes_stay():
    data, probe = FashionScenes(**SMALL, num_workers=0), Probe()
    trainer(limit_train_batches=2).fit(probe, data)
    train, val = probe.seen["train"], probe.seen["val"]
    assert (len(train), len(val)) == (2, 2)  # one of them before training
    stored = data.val_set[[0, 1]].batch
    for batch in val:
        assert isinstance(batch, DetectionBatch)
        for found, expected in zip(batch.images, stored.images, strict=True):
            assert found.dtype == torch.float32
            assert found.is_contiguous()
            torch.testing.assert_close(found.double(), expected.double() / 255, rtol=0, atol=1e-7)
        for found, expected in zip(batch.targets, stored.targets, strict=True):
            assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize(
    ("precision", "images", "boxes"),
    [("bf16-true", torch.bfloat16, torch.float32), ("64-true", torch.float64, torch.float64)],
)
def test_boxes_never_lose_precision(precision, images, boxes):
    data, probe = FashionScenes(**SMALL, num_workers=0), Probe()
    trainer(limit_train_batches=1, limit_val_batches=1, precision=precision).fit(probe, data)
    for batch in (probe.seen["train"][0], probe.seen["val"][0]):
        assert {image.dtype for image in batch.images} == {images}
        assert {target["boxes"].dtype for target in batch.targets} == {boxes}
        assert {target["labels"].dtype for target in batch.targets} == {torch.int64}


@pytest.mark.parametrize("detector", [FasterRCNN, SSD])
def test_the_detectors_of_torchvision_take_the_batches(detector):
    data = FashionScenes(**SMALL, num_garments=(0, 2), keep_negatives=True, num_workers=0)
    loaded = [data.on_before_batch_transfer(batch, 0) for batch in data.train_dataloader()]
    with_empty = [batch for batch in loaded if 0 in {len(target["boxes"]) for target in batch.targets}]
    batch = data.on_after_batch_transfer(with_empty[0], 0)
    backbone = nn.Conv2d(3, 8, 3, stride=8)
    torch.manual_seed(0)
    if detector is SSD:
        backbone.out_channels = [8]
        boxes = DefaultBoxGenerator([[2]], scales=[0.3, 0.6])
        model = SSD(backbone, boxes, (48, 48), 11, image_mean=data.mean, image_std=data.std)
    else:
        backbone.out_channels = 8
        anchors = AnchorGenerator(((8, 16, 32),), ((0.5, 1.0, 2.0),))
        model = FasterRCNN(backbone, 11, min_size=48, max_size=48, rpn_anchor_generator=anchors)
    losses = model(batch.images, batch.targets)
    assert all(loss.isfinite() for loss in losses.values())
    assert sum(losses.values()) > 1


@pytest.fixture
def damaged(tmp_path):
    """Six images; one is truncated, and one differs in size from its annotation."""
    folder = write_voc(tmp_path, *[voc_object()] * 6)
    paths = [folder / "JPEGImages" / f"00000{i}.jpg" for i in (1, 4)]
    paths[0].write_bytes(paths[0].read_bytes()[:900])
    save_image(patches(1, 30, 50)[0], paths[1])
    write_voc(tmp_path, voc_object(), image_set="test")
    return tmp_path, [str(path) for path in paths]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_damaged_images_stop_or_are_skipped(damaged, num_workers):
    root, paths = damaged
    options = {
        "years": (2007,),
        "val_fraction": 0.0,
        "size_px": 32,
        "num_workers": num_workers,
        "batch_size": 1,
    }
    with pytest.raises(UsageError, match=r"00000[14]\.jpg: .*or set --data\.on_bad_image skip"):
        trainer().fit(Probe(), VOCDetection(str(root), **options))
    data, probe = VOCDetection(str(root), on_bad_image="skip", **options), Probe()
    with pytest.warns(UserWarning, match="skipped 2 files that are not a readable image"):
        trainer().fit(probe, data)
    assert sorted(data.skipped_images) == paths
    assert sorted(len(batch.images) for batch in probe.seen["train"]) == [0, 0, 1, 1, 1, 1]


def test_predicts_files_of_any_size(tmp_path):
    for i, (height, width) in enumerate([(30, 90), (200, 100)]):
        save_image(patches(1, height, width)[0], tmp_path / f"{i}.png")
    data, probe = FashionScenes(**SMALL, predict_path=str(tmp_path), num_workers=0), Probe()
    trainer().predict(probe, data)
    (batch,) = probe.seen["predict"]
    assert batch.original_sizes.tolist() == [[30, 90], [200, 100]]
    assert [tuple(image.shape) for image in batch.images] == [(3, 48, 48)] * 2
    assert [target["boxes"].shape for target in batch.targets] == [(0, 4)] * 2
    assert data.sample_name("predict", 1) == str(tmp_path / "1.png")


def test_boxes_that_were_corrected_are_reported_once(tmp_path):
    write_voc(tmp_path, voc_object(box=(50, 5, 70, 20)), voc_object(), voc_object(box=(70, 5, 80, 9)))
    data = VOCDetection(str(tmp_path), years=(2007,), size_px=32, num_workers=0, val_fraction=0.5)
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        assert (len(data.train_set), len(data.val_set)) == (1, 2)  # validation keeps the image without any
    messages = [str(w.message) for w in record if "boxes" in str(w.message)]
    assert [message.partition(": ")[0] for message in messages] == [
        "clipped 1 boxes that reach out of their images",
        "left out 1 boxes that have no area in their images",
    ]


COMMON = {
    "batch_size": 7,
    "global_batch_size": 14,
    "num_workers": 1,
    "val_fraction": 0.25,
    "split_seed": 3,
    "predict_path": "photos",
    "on_bad_image": "skip",
    "size_px": 64,
    "in_channels": 1,
    "augmentation": "none",
    "keep_negatives": True,
}
OPTIONS = {
    "VOCDetection": {"root": "here", "years": (2012,), "class_names": ("a", "b")},
    "CocoDetection": {"root": "here"},
    "FashionScenes": {
        "num_images": 5,
        "num_test_images": 6,
        "num_garments": (2, 3),
        "scene_seed": 4,
        "source": "full",
        "root": "here",
        "photographs": "mine",
    },
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_set_from_yaml_explained_and_none_is_forgotten(name, capsys):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(DetectionDataModule, "data")
    options = OPTIONS[name] | COMMON
    config = parser.parse_object({"data": {"class_path": name, "init_args": options}})
    assert config.data.init_args.as_dict() == options
    with pytest.raises(SystemExit):
        parser.parse_args([f"--data.help={name}"])
    text = " ".join(capsys.readouterr().out.split())
    for option in options:
        described = text.rpartition(f"--data.{option} ")[2]
        assert described.index("(type: ") > 20, option


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size_px": 0}, "size_px is 0; allowed: 1 or more, or null"),
        ({"size_px": None}, "size_px is None; allowed: 1 or more with the augmentation ssd"),
        ({"in_channels": 2}, "in_channels is 2; allowed: 1 or 3"),
        ({"augmentation": "rotate"}, "augmentation is rotate; allowed: ssd, flip or none"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        VOCDetection(**options)
