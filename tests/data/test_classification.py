import torch

from cbam_lightning.data import Batch, FashionMNIST
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
