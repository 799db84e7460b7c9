import hashlib
import random
import unicodedata

import pytest
import torch

from cbam_lightning.data.splits import hold_out, ordered_by_name, shuffled_by_class, stratified_split

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


NAMES = [f"photo {number}.jpg" for number in range(200)]


def held_out_names(names, seed=0):
    parts = hold_out(ordered_by_name([0] * len(names), names, seed), [0.1, 0.1])
    return [{names[position] for position in part.tolist()} for part in parts]


def test_an_order_by_name_is_the_documented_hash_and_no_position_matters():
    def key(name):
        return hashlib.blake2b(f"7/{name}".encode(), digest_size=8).hexdigest()

    (order,) = ordered_by_name([0] * 200, NAMES, 7).values()
    assert [NAMES[position] for position in order] == sorted(NAMES, key=key)
    turned = NAMES[::-1]
    assert held_out_names(turned) == held_out_names(NAMES) != held_out_names(NAMES, seed=1)


def test_a_new_image_moves_no_more_than_the_ones_at_the_borders():
    moved = []
    for number in range(60):
        before, after = held_out_names(NAMES), held_out_names([*NAMES, f"new {number}.jpg"])
        # none that was trained on is held out, as long as the counts of what is held out stay the same
        assert [len(part) for part in after] == [161, 20, 20]
        assert not before[0] & (after[1] | after[2])
        moved.append(sum(len(part - other) for part, other in zip(before, after, strict=True)))
    assert max(moved) == 2
    assert moved.count(0) > 40


def test_the_unicode_form_of_a_name_does_not_matter():
    names = [f"Ä {number}.jpg" for number in range(50)]
    decomposed = [unicodedata.normalize("NFD", name) for name in names]
    assert ordered_by_name([0] * 50, names, 0) == ordered_by_name([0] * 50, decomposed, 0)


def test_names_that_are_not_utf_8_have_their_place():
    (order,) = ordered_by_name([0, 0], ["\udce4.jpg", "\udce5.jpg"], 0).values()
    assert sorted(order) == [0, 1]


def test_orders_by_name_are_of_classes():
    assert {label: sorted(p) for label, p in ordered_by_name([1, 0, 1], ["a", "a", "b"], 0).items()} == {
        0: [1],
        1: [0, 2],
    }
