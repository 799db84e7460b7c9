import pytest
import torch
from torch.nn.functional import one_hot

from cbam_lightning.data import Batch, FashionMNIST
from cbam_lightning.data.classification import create_mixing
from tests.data.probing import Probe, trainer


def test_normalisation_equals_the_formula_without_a_trainer():
    data = FashionMNIST(batch_size=32, mixup_alpha=1.0)
    loaded = next(iter(data.test_dataloader()))
    batch = data.on_after_batch_transfer(data.on_before_batch_transfer(loaded, 0), 0)
    expected = (loaded.images.double() / 255 - 0.2860) / 0.3530
    assert batch.images.dtype == torch.float32
    torch.testing.assert_close(batch.images.double(), expected, rtol=0, atol=1e-6)
    assert torch.equal(batch.labels, loaded.labels)


def test_hooks_are_called_and_mixing_is_for_training_only():
    data = FashionMNIST(mixup_alpha=0.4, cutmix_alpha=1.0)
    probe = Probe(1, 10)
    trainer(limit_train_batches=6, limit_val_batches=2, num_sanity_val_steps=1).fit(probe, data)
    train, val = probe.seen["train"], probe.seen["val"]
    assert (len(train), len(val)) == (6, 3)
    for batch in train:
        assert isinstance(batch, Batch)
        assert batch.images.dtype == torch.float32
        assert batch.labels.shape == (128, 10)
        torch.testing.assert_close(batch.labels.sum(dim=1), torch.ones(128))
    assert all(batch.labels.dtype == torch.int64 for batch in val)
    # the share of one image can be close to all
    assert any(not torch.equal(batch.labels, batch.labels.round()) for batch in train)


def test_reduced_precision_reaches_the_images():
    data, probe = FashionMNIST(mixup_alpha=0.4), Probe(1, 10)
    trainer(limit_train_batches=1, limit_val_batches=1, precision="bf16-true").fit(probe, data)
    assert probe.seen["train"][0].images.dtype == torch.bfloat16
    assert probe.seen["train"][0].labels.dtype == torch.bfloat16
    assert probe.seen["val"][0].images.dtype == torch.bfloat16
    assert probe.seen["val"][0].labels.dtype == torch.int64


IMAGES = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(16) % 10


def test_off_by_default():
    assert create_mixing(0, 0, num_classes=10) is None


def test_mixup_equals_the_literal_mix():
    torch.manual_seed(0)
    images, labels = create_mixing(0.4, 0, num_classes=10)(IMAGES, LABELS)
    weight = labels[0, 0].item()  # of image 0, of class 0; its neighbour is image 15, of class 5
    neighbour = torch.roll(torch.arange(16), 1)
    hard = one_hot(LABELS, 10).float()
    assert 0 < weight < 1
    torch.testing.assert_close(images, weight * IMAGES + (1 - weight) * IMAGES[neighbour])
    torch.testing.assert_close(labels, weight * hard + (1 - weight) * hard[neighbour])


def test_cutmix_pastes_a_box_and_weighs_the_labels_by_its_area():
    torch.manual_seed(1)
    images, labels = create_mixing(0, 1.0, num_classes=10)(IMAGES, LABELS)
    pasted = (images != IMAGES).any(dim=1)  # (16, 8, 8)
    area = pasted[0].float().mean()
    assert 0 < area < 1
    assert torch.equal(pasted, pasted[:1].expand(16, -1, -1))
    assert torch.equal(
        images.mT[pasted[:, None].expand_as(images).mT],
        IMAGES.roll(1, 0).mT[pasted[:, None].expand_as(images).mT],
    )
    torch.testing.assert_close(labels[0, 5], area)
    torch.testing.assert_close(labels.sum(dim=1), torch.ones(16))


def test_both_are_drawn_when_both_are_on():
    mixing = create_mixing(0.4, 1.0, num_classes=10)
    torch.manual_seed(0)
    pasted_parts = [
        ((mixing(IMAGES, LABELS)[0] != IMAGES).any(dim=1).float().mean().item()) for _ in range(20)
    ]
    assert any(part == 1 for part in pasted_parts)
    assert any(part < 1 for part in pasted_parts)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_labels_sum_to_1(count):
    labels = create_mixing(0.2, 0.2, num_classes=10)(IMAGES[:count], LABELS[:count])[1]
    assert labels.shape == (count, 10)
    torch.testing.assert_close(labels.sum(dim=1), torch.ones(count))
