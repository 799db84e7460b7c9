import pytest
import torch

from cbam_lightning.data import CIFAR10, FashionMNIST
from cbam_lightning.data.device_arrays import DeviceArrays
from cbam_lightning.errors import UsageError
from tests.data.generate import patches, save_image
from tests.data.probing import Probe, trainer


class Photos(CIFAR10):
    """Colour images of the size of CIFAR-10."""

    def load_part(self, train):
        count = 120 if train else 50
        return torch.from_numpy(patches(count, 32, 32)).permute(0, 3, 1, 2), torch.arange(count) % 10


OPTIONS = [
    {},
    {"crop_padding_px": 0, "hflip": False, "balanced": True},
    {"mixup_alpha": 0.4, "cutmix_alpha": 1.0},
]


def run(data, channels, **options):
    """Train, test and predict; returns all batches as the network gets them, and the weights."""
    torch.manual_seed(3)
    data.trainer, probe = None, Probe(channels, 10)
    runner = trainer(limit_train_batches=4, **options)
    runner.fit(probe, data)
    runner.test(probe, data, verbose=False)
    runner.predict(probe, data)
    return [value for batches in probe.seen.values() for batch in batches for value in batch] + [
        *probe.parameters()
    ]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("module", "channels"), [(FashionMNIST, 1), (Photos, 3)])
def test_the_network_gets_the_same_images(module, channels, options):
    seen = [run(module(batch_size=25, on_device=on, **options), channels) for on in (False, True)]
    assert len(seen[0]) == len(seen[1]) > 20
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(*seen, strict=True))


def test_the_same_images_are_seen_in_reduced_precision_and_when_overfitting():
    options = {"precision": "bf16-true", "overfit_batches": 2}
    seen = [run(FashionMNIST(batch_size=25, on_device=on), 1, **options) for on in (False, True)]
    assert seen[0][0].dtype == torch.bfloat16
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))


def test_images_are_copied_once_to_each_device_and_only_by_request(monkeypatch):
    data = Photos(on_device=True)
    held = data.train_dataloader().dataset
    assert isinstance(held, DeviceArrays)
    assert data.train_dataloader().dataset is held
    assert held.source is data.train_set
    assert data.val_dataloader().dataset.source is data.val_set
    data.trainer = trainer()
    monkeypatch.setattr(type(data.trainer.strategy), "root_device", torch.device("meta"))
    assert data.train_dataloader().dataset.device.type == "meta"
    assert Photos().train_dataloader().dataset.device.type == "cpu"
    assert not isinstance(Photos().train_dataloader().dataset, DeviceArrays)


def test_files_to_predict_are_read_as_usual(tmp_path):
    save_image(patches(1, 28, 28)[0], tmp_path / "a.png")
    data, probe = FashionMNIST(on_device=True, predict_path=str(tmp_path), num_workers=0), Probe(1, 10)
    trainer().predict(probe, data)
    assert probe.seen["predict"][0].images.shape == (1, 1, 28, 28)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_workers": 2}, "num_workers is 2; allowed: 0 or null with on_device, as the device makes"),
        ({"train_transform": torch.nn.Identity()}, "train_transform is given; allowed: null with on_device"),
        ({"eval_transform": [abs]}, r"eval_transform is given; .* Change it with --data\.eval_transform"),
    ],
)
def test_what_needs_the_cpu_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        FashionMNIST(on_device=True, **options)
