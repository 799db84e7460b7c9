"""States of metrics, saved by some processes and taken up by more or fewer."""

import warnings

import pytest
import torch
from torch import nn
from torchmetrics import MaxMetric, MeanMetric, Metric
from torchmetrics.classification import BinaryAUROC, MulticlassAccuracy

from cbam_lightning.callbacks.resume.accumulated import load_accumulated
from cbam_lightning.callbacks.resume.metric_states import load_metrics, plain_metrics, read_metrics
from cbam_lightning.errors import UsageError

SCORES = torch.linspace(0, 1, 12).roll(5)
LABELS = (torch.arange(12) * 5 % 7 > 2).long()


class Module(nn.Module):
    def __init__(self):
        super().__init__()
        self.area, self.highest = BinaryAUROC(), MaxMetric()

    def update(self, scores, labels):
        self.area.update(scores, labels)
        self.highest.update(scores)

    def results(self):
        return [float(self.area.compute()), float(self.highest.compute())]


def of_processes(number):
    saved = []
    for rank in range(number):
        module = Module()
        for turn in range(rank, 4, number):
            module.update(SCORES[turn::4], LABELS[turn::4])
        saved.append(plain_metrics(read_metrics(module)))
    return saved


@pytest.fixture
def whole():
    module = Module()
    module.update(SCORES, LABELS)
    return module.results()


@pytest.mark.parametrize("before", [1, 2, 4])
def test_fewer_processes_have_everything(before, whole):
    module = Module()
    load_metrics(module, of_processes(before), rank=0, world_size=1)
    assert module.results() == whole
    assert module.area.update_called


def test_more_processes_have_everything_once():
    modules = [Module() for _ in range(3)]
    saved = of_processes(2)
    for rank, module in enumerate(modules):
        load_metrics(module, saved, rank, world_size=3)
    scores = [torch.cat(module.area.preds) if module.area.preds else torch.empty(0) for module in modules]
    assert [len(part) for part in scores] == [6, 6, 0]
    assert torch.equal(torch.cat(scores).sort().values, SCORES.sort().values)


def test_what_goes_on_is_the_same(whole):
    """What comes after a break is added to what was before."""
    before, after = Module(), Module()
    before.update(SCORES[:5], LABELS[:5])
    saved = plain_metrics(read_metrics(before))
    before.update(SCORES[5:], LABELS[5:])  # changes nothing that was read
    load_metrics(after, [saved], rank=0, world_size=1)
    after.update(SCORES[5:], LABELS[5:])
    assert after.results() == whole


def test_a_state_that_cannot_be_shared_out_is_refused():
    class Last(Metric):
        def __init__(self):
            super().__init__()
            self.add_state("last", torch.tensor(0.0))

        def update(self, value):
            self.last = torch.tensor(value)

        def compute(self):
            return self.last

    class Kept(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.ModuleDict({"last": Last()})

    module = Kept()
    module.inner["last"].update(2.0)
    saved = [plain_metrics(read_metrics(module))]
    load_metrics(fresh := Kept(), saved, rank=0, world_size=1)
    assert fresh.inner["last"].compute() == 2
    with pytest.raises(UsageError, match=r"inner.last cannot be redistributed: .* 1 processes.* 2 now"):
        load_metrics(Kept(), saved, rank=0, world_size=2)
    load_metrics(Kept(), [{}], rank=0, world_size=2)  # nothing was in it


def test_what_no_checkpoint_holds_is_told():
    module = nn.Module()
    module.odd, module.mean = MeanMetric(), MeanMetric()
    module.odd.update(1.0)
    module.mean.update(3.0)
    states = read_metrics(module)
    states["odd"]["state"]["value"] = {1, 2}
    with pytest.warns(UserWarning, match="the state of the metric odd has a set"):
        assert list(plain_metrics(states)) == ["mean"]


def test_counts_of_older_checkpoints_are_taken_up(tmp_path):
    from pytorch_lightning import Trainer
    from pytorch_lightning.demos.boring_classes import BoringModel
    from torchmetrics import MetricCollection

    module = BoringModel()
    module.train_metrics = MetricCollection({"top1": MulticlassAccuracy(4, average="micro")}, prefix="train/")
    module.train_metrics.update(torch.tensor([0, 1, 2]), torch.tensor([0, 1, 1]))
    state = {name: metric.metric_state for name, metric in module.train_metrics.items()}
    saved = {name: {key: value.clone() for key, value in states.items()} for name, states in state.items()}
    assert list(saved) == ["train/top1"]
    module.train_metrics.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(logger=False, accelerator="cpu", enable_checkpointing=False)
    load_accumulated(trainer, module, {"train_metrics": saved})
    assert float(module.train_metrics.compute()["train/top1"]) == pytest.approx(2 / 3)
