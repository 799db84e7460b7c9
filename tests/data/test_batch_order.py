import pytest
import torch

from cbam_lightning.data.arrays import ArrayDataset
from cbam_lightning.data.batch_order import EvalOrder, TrainOrder
from cbam_lightning.errors import UsageError


def dataset(count):
    return ArrayDataset(torch.zeros(count, 1, 2, 2, dtype=torch.uint8), torch.zeros(count, dtype=torch.int64))


def flat(batches):
    return [item for batch in batches for item in batch]


@pytest.mark.parametrize("count", [1, 7, 24, 25])
@pytest.mark.parametrize("num_replicas", [1, 2, 3, 5])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_evaluation_gives_every_image_once_in_as_many_batches(count, num_replicas, batch_size):
    orders = [EvalOrder(dataset(count), batch_size, num_replicas, rank) for rank in range(num_replicas)]
    batches = [list(order) for order in orders]
    assert sorted(flat(flat(batches))) == list(range(count))
    assert {len(own) for own in batches} == {len(orders[0])}
    assert all(len(batch) <= batch_size for own in batches for batch in own)
    # in turns, so that batch i of all devices together is batch i of one device with their batch size
    single = list(EvalOrder(dataset(count), batch_size * num_replicas))
    assert [sorted(flat(together)) for together in zip(*batches, strict=True)][: len(single)] == single


def test_devices_share_the_batches_of_one_device():
    images = dataset(101)
    single = list(TrainOrder(images, 8, seed=3))
    pair = [list(TrainOrder(images, 4, 3, 2, rank)) for rank in (0, 1)]
    assert [sorted(flat(together)) for together in zip(*pair, strict=True)] == [sorted(b) for b in single]
    assert len(single) == len(TrainOrder(images, 8, seed=3)) == 12


def test_an_order_follows_from_seed_and_epoch():
    images = dataset(50)
    order, again, other = (TrainOrder(images, 5, seed) for seed in (0, 0, 1))
    first = list(order)
    assert list(again) == first != list(other)
    order.set_epoch(1)
    second = list(order)
    assert sorted(d.position for d in flat(second)) == sorted(d.position for d in flat(first))
    assert second != first
    seeds = [{d.position: d.seed for d in flat(epoch)} for epoch in (first, second)]
    assert all(seeds[0][i] != seeds[1][i] for i in range(50))
    assert len(set(seeds[0].values())) == 50


def test_it_can_begin_anywhere():
    order = TrainOrder(dataset(50), 5, 0)
    whole = list(order)
    order.first_batch = 7
    assert list(order) == whole[7:]


@pytest.mark.parametrize(("count", "sizes"), [(8, [4, 4]), (11, [4, 4]), (3, [3])])
def test_an_incomplete_batch_is_left_out_unless_it_is_the_only_one(count, sizes):
    order = TrainOrder(dataset(count), 4, 0)
    assert [len(batch) for batch in order] == sizes
    assert len(order) == len(sizes)


def test_devices_that_would_get_no_image_are_refused():
    with pytest.raises(UsageError, match="2 images cannot be trained on with 3 devices; use fewer"):
        TrainOrder(dataset(2), 4, 0, num_replicas=3)
