import random

import pytest
import torch

from cbam_lightning.data.splits import shuffled_by_class, stratified_split

LABELS = torch.arange(1000) % 7  # 143 of each of the first six classes, 142 of the last


def test_parts_are_disjoint_complete_and_stratified():
    parts = stratified_split(LABELS, [0.1, 0.2], seed=0)
    assert sorted(torch.cat(parts).tolist()) == list(range(1000))
    assert [torch.bincount(LABELS[part]).tolist() for part in parts] == [
        [100, 100, 100, 100, 100, 100, 100],
        [14] * 7,
        [29, 29, 29, 29, 29, 29, 28],
    ]
    assert all(part.tolist() == sorted(part.tolist()) for part in parts)


def test_only_its_own_seed_matters():
    torch.manual_seed(0)
    random.seed(0)
    first = stratified_split(LABELS, [0.1], seed=0)
    torch.manual_seed(1)
    random.seed(1)
    state = random.getstate()
    assert torch.equal(first[1], stratified_split(LABELS, [0.1], seed=0)[1])
    assert random.getstate() == state
    assert not torch.equal(first[1], stratified_split(LABELS, [0.1], seed=1)[1])


def test_the_choice_stays_the_same_in_later_releases():
    _, held_out = stratified_split(torch.arange(40) % 2, [0.2], seed=0)
    keys = [random.Random(0).random()]  # the documented, frozen sequence, restated literally
    generator = random.Random(0)
    keys = [generator.random() for _ in range(40)]
    expected = sorted(i for parity in (0, 1) for i in sorted(range(parity, 40, 2), key=keys.__getitem__)[:4])
    assert held_out.tolist() == expected
    assert keys[0] == 0.8444218515250481


def test_small_classes_keep_an_image_to_train_on():
    labels = torch.tensor([0, 1, 1, 2, 2, 2, 2])
    train, val, test = stratified_split(labels, [0.1, 0.1], seed=0)
    assert torch.bincount(labels[train], minlength=3).tolist() == [1, 1, 2]
    assert torch.bincount(labels[val], minlength=3).tolist() == [0, 1, 1]
    assert torch.bincount(labels[test], minlength=3).tolist() == [0, 0, 1]


@pytest.mark.parametrize("fractions", [[0.0], [0.0, 0.0]])
def test_a_fraction_of_0_takes_nothing(fractions):
    train, *others = stratified_split(LABELS, fractions, seed=0)
    assert train.tolist() == list(range(1000))
    assert [len(other) for other in others] == [0] * len(fractions)


def test_classes_are_ordered_and_positions_complete():
    by_class = shuffled_by_class([2, 0, 2, 0, 0], seed=0)
    assert list(by_class) == [0, 2]
    assert sorted(by_class[0]) == [1, 3, 4]
    assert sorted(by_class[2]) == [0, 2]
