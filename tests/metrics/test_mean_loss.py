import pytest
import torch

from cbam_lightning.metrics.mean_loss import MeanLoss

LOSSES = torch.rand(10_007, generator=torch.Generator().manual_seed(0)) * 5


def mean(*parts):
    metric = MeanLoss()
    for part in parts:
        metric.update(part)
    return metric.compute()


def test_it_is_the_mean_in_double_precision():
    expected = LOSSES.double().mean()
    assert mean(*LOSSES.split(128)).item() == pytest.approx(expected.item(), rel=1e-7)
    small = torch.full((1000,), 1e-4)
    assert mean(small).item() == pytest.approx(1e-4, rel=3e-4)


def test_it_is_the_same_in_any_order_and_batches():
    shuffled = LOSSES[torch.randperm(len(LOSSES), generator=torch.Generator().manual_seed(1))]
    single, others = mean(LOSSES), [mean(*shuffled.split(size)) for size in (7, 128, 5000)]
    assert all(torch.equal(single, other) for other in others)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_shows(value):
    assert mean(LOSSES, torch.tensor([value])).isnan()
    metric = MeanLoss()
    metric.update(torch.tensor([value]))
    metric.reset()
    metric.update(torch.tensor([2.0]))
    assert metric.compute() == 2


def test_reduced_precision_is_summed_exactly():
    assert mean(torch.full((100_000,), 3.0, dtype=torch.bfloat16)) == 3
