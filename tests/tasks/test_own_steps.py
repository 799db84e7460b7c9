"""A classifier with the user's loss, metrics and plain data: numbers, and one line for each mistake."""

import math

import pytest
import torch
from pytorch_lightning import LightningDataModule
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAUROC, MulticlassF1Score

from cbam_lightning.data.batch import as_batch
from cbam_lightning.errors import UsageError
from cbam_lightning.optim import WarmupCosine
from cbam_lightning.tasks import Classifier
from cbam_lightning.weights import read_training_state
from tests.tasks.small import batch, classifier, loader, pictures, trainer


def pairs(count, start=0):
    """Pictures as a plain data set of (image, label)."""
    images, labels = pictures()
    return list(zip(images[start : start + count], labels[start : start + count].tolist(), strict=True))


class Plain(LightningDataModule):
    """As somebody writes it who has never heard of this package."""

    def __init__(self, kind=tuple, shift=0, count=16):
        super().__init__()
        self.kind, self.shift, self.count = kind, shift, count

    def collate(self, items):
        images = torch.stack([image for image, _ in items])
        labels = torch.tensor([label + self.shift for _, label in items])
        return {"images": images, "labels": labels} if self.kind is dict else self.kind((images, labels))

    def train_dataloader(self):
        return DataLoader(pairs(self.count), batch_size=4, collate_fn=self.collate)

    def val_dataloader(self):
        return DataLoader(pairs(8, 100), batch_size=4, collate_fn=self.collate)

    test_dataloader = predict_dataloader = val_dataloader


class Endless(IterableDataset):
    def __iter__(self):
        return iter(pairs(12))


class Weighted(Classifier):
    """Cross-entropy with a weight for each class."""

    def loss(self, logits, batch):
        weights = torch.linspace(0.5, 1.5, 10)
        return F.cross_entropy(logits, batch.labels, weights)


def own(cls, **options):
    like = classifier(**options)
    torch.manual_seed(0)
    model = cls(
        network="resnet20", attention="cbam", in_channels=1, optimizer=like.optimizer, schedule=like.schedule,
        network_options={"depths": [1, 1, 1], "widths": [8, 16, 32]}, **options,
    )  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), like.parameters(), strict=True))
    return model


@pytest.mark.parametrize("kind", [tuple, list, dict])
def test_plain_batches_train_like_ours(kind):
    plain, ours = classifier(), classifier()
    trainer().fit(plain, Plain(kind))
    trainer().fit(ours, loader(16))
    for (name, a), b in zip(plain.named_parameters(), ours.parameters(), strict=True):
        assert torch.equal(a, b), name
    found = trainer().test(plain, Plain(kind), verbose=False)
    assert found == trainer().test(ours, loader(8, start=100), verbose=False)
    (first, second) = trainer().predict(plain, Plain(kind))
    plain.eval()
    torch.testing.assert_close(torch.cat((first, second)), plain(batch(8, 100).images).softmax(1))


def test_a_loss_of_the_user_is_minimised_and_evaluated():
    model = own(Weighted)
    given = batch(6)
    logits = model(given.images)
    weights = torch.linspace(0.5, 1.5, 10)[given.labels].double()
    losses = -logits.double().log_softmax(1)[torch.arange(6), given.labels]
    expected = (weights * losses).sum() / weights.sum()
    torch.testing.assert_close(model.loss(logits, given).double(), expected)
    (found,) = trainer().test(model, loader(6, batch_size=6), verbose=False)
    model.eval()
    losses = -model(given.images).double().log_softmax(1)[torch.arange(6), given.labels]
    assert math.isclose(found["test/loss"], (weights * losses).sum() / weights.sum(), rel_tol=1e-6)


def test_logits_reach_the_hooks_alive():
    class Hooked(Classifier):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            alive.append(outputs["logits"].grad_fn is not None)

    alive = []
    trainer().fit(own(Hooked), loader(8))
    assert alive == [True, True]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (lambda logits: logits.square().sum(1), r"BadLoss\.loss in .*\.py returned a tensor of shape \(4,\)"),
        (lambda logits: logits.detach().mean(), "returned a number that does not depend on the weights"),
        (lambda logits: 3.5, "returned 3.5; return the mean over the batch"),
        (lambda logits: None, "returned None"),
    ],
)
def test_a_loss_that_is_no_number_is_refused(given, expected):
    class BadLoss(Classifier):
        def loss(self, logits, batch):
            return given(logits)

    with pytest.raises(UsageError, match=expected):
        trainer(num_sanity_val_steps=0).fit(own(BadLoss), loader(8))


class Collected(Metric):
    """The mean of all probabilities of the right class, from a list of batches."""

    full_state_update = False

    def __init__(self):
        super().__init__()
        self.add_state("seen", [], dist_reduce_fx="cat")

    def update(self, logits, labels):
        self.seen.append(logits.softmax(1)[torch.arange(len(labels)), labels])

    def compute(self):
        return torch.cat(self.seen).mean()


def test_metrics_are_logged_in_every_split_by_their_names():
    model = classifier(metrics=[MulticlassAUROC(10), Collected()])
    runner = trainer()
    runner.fit(model, loader(16), loader(8, start=100))
    splits = {f"{split}/{name}" for split in ("train", "val") for name in ("MulticlassAUROC", "Collected")}
    assert splits <= set(runner.callback_metrics)
    model.eval()
    right = model(batch(8, 100).images).softmax(1)[torch.arange(8), batch(8, 100).labels]
    torch.testing.assert_close(runner.callback_metrics["val/Collected"], right.mean())
    named = classifier(metrics={"f1": MulticlassF1Score(10, average="macro")})
    (found,) = trainer().test(named, loader(8, start=100), verbose=False)
    assert {"test/f1", "test/top1", "test/top5", "test/loss"} == set(found)


def test_metrics_can_be_configured_in_a_subclass():
    class Own(Classifier):
        monitor = "val/seen"

        def configure_metrics(self):
            return {"seen": Collected()}

    (found,) = trainer().test(own(Own), loader(8), verbose=False)
    assert set(found) == {"test/seen", "test/loss"}


def test_metrics_made_in_python_stay_out_of_the_checkpoint(tmp_path):
    runner = trainer()
    runner.fit(classifier(metrics=[Collected()]), loader(8))
    runner.save_checkpoint(tmp_path / "x.ckpt")
    assert "metrics" not in read_training_state(tmp_path / "x.ckpt")["hyper_parameters"]


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ([Collected(), Collected()], "--model.metrics has Collected twice; give a dictionary"),
        ([MulticlassAUROC(7)], "the metric 'MulticlassAUROC', .* does not take logits .4, 10. .*10 classes"),
    ],
)
def test_metrics_that_do_not_fit(metrics, expected):
    with pytest.raises(UsageError, match=expected):
        trainer(num_sanity_val_steps=0).fit(classifier(metrics=metrics), loader(8))


@pytest.mark.parametrize("shift", [-1, 5])
def test_labels_out_of_range_are_refused_before_they_reach_the_device(shift):
    wrong = -1 if shift < 0 else 1
    with pytest.raises(UsageError, match=r"Plain gives the label (-1|1\d), and the network has 10 classes"):
        trainer().fit(classifier(), Plain(shift=shift, count=64 * abs(wrong)))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((torch.zeros(2, 1), torch.zeros(2), torch.zeros(2)), "gives batches of the type tuple"),
        ({"x": torch.zeros(2, 1)}, "gives batches of the type dict"),
        ((torch.zeros(2, 1), torch.zeros(3)), r"not \(images, labels\)"),
        ((torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2)), "images of torch.uint8; .* floats"),
        ("text", "gives batches of the type str"),
    ],
)
def test_what_is_no_batch(given, expected):
    with pytest.raises(UsageError, match=expected):
        as_batch(given, "my.Data")


def test_data_without_a_length_train_once_a_length_is_given():
    stream = DataLoader(Endless(), batch_size=4)
    with pytest.raises(UsageError, match="the data have no length: set --trainer"):
        trainer().fit(classifier(schedule=WarmupCosine()), stream)
    model = classifier(schedule=WarmupCosine(warmup_epochs=0))
    runner = trainer(limit_train_batches=3)
    runner.fit(model, stream)
    assert runner.global_step == 3
    assert runner.optimizers[0].param_groups[0]["lr"] < 1e-8
    runner = trainer()
    runner.fit(classifier(), stream)  # a constant rate has no need of it
    assert runner.global_step == 3
