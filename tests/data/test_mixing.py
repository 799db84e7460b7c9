import pytest
import torch
from torch.nn.functional import one_hot

from cbam_lightning.data.mixing import create_mixing

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
