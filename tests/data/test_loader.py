import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cbam_lightning.data import FashionMNIST, ImageFolder
from cbam_lightning.data.arrays import ArrayDataset
from cbam_lightning.data.loader import EvalOrder, TrainOrder
from cbam_lightning.errors import UsageError
from tests.data.generate import write_image_folder


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


def pets(folder, num_workers):
    torch.manual_seed(0)
    return ImageFolder(str(folder), size_px=24, batch_size=4, num_workers=num_workers)


def same(batches, others):
    return len(batches) == len(others) and all(
        torch.equal(a.images, b.images) and torch.equal(a.indices, b.indices)
        for a, b in zip(batches, others, strict=True)
    )


def test_worker_processes_change_nothing(tmp_path):
    folder = write_image_folder(tmp_path / "pets")
    loaders = [pets(folder, num_workers).train_dataloader() for num_workers in (0, 2)]
    epochs = [[list(loader) for _ in range(2)] for loader in loaders]
    for alone, shared in zip(*epochs, strict=True):
        assert same(alone, shared)
    assert not same(*epochs[0])
    # images of random cuts, which follow the image and not the batch
    images = [
        {int(i): image for b in epoch for i, image in zip(b.indices, b.images, strict=True)}
        for epoch in epochs[0]
    ]
    assert any(not torch.equal(images[0][i], images[1][i]) for i in images[0])


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("batches", [0, 1, 4, 6])
def test_a_pass_goes_on_where_another_stopped(tmp_path, num_workers, batches):
    folder = write_image_folder(tmp_path / "pets")
    loader = pets(folder, num_workers).train_dataloader()
    list(loader)  # epoch 0
    torch.manual_seed(99)  # global generators have no say
    iterator, read = iter(loader), []
    for _ in range(batches):
        read.append(next(iterator))
    state = loader.state_dict()
    division = {"first_image": 0, "images": 4 * batches, "batch_size": 4, "devices": 1}
    assert state == {"epoch": 1, "batches": batches, **division} if batches else state["epoch"] == 0
    resumed = pets(folder, num_workers).train_dataloader()
    resumed.load_state_dict(state)
    resumed.order.set_epoch(1)
    whole = pets(folder, 0).train_dataloader()
    whole.order.set_epoch(1)
    assert same(read + list(resumed), list(whole))
    assert len(loader) == 6


def test_a_pass_that_was_broken_off_begins_anew():
    loader = FashionMNIST(batch_size=500).val_dataloader()
    next(iter(loader))
    assert torch.cat([batch.indices for batch in loader]).tolist() == list(range(1000))


def test_state_of_another_epoch_is_forgotten():
    torch.manual_seed(0)
    loader = FashionMNIST(batch_size=1000).train_dataloader()
    loader.load_state_dict({"epoch": 3, "batches": 4})
    loader.order.set_epoch(4)
    assert len(list(loader)) == 9
    assert loader.state_dict().items() >= {"epoch": 4, "batches": 9}.items()


@example(num_images=14, divisions=[(8, 3), (12, 2)], stops=[1, 0, 0, 0])  # fewer than a batch of all devices
@settings(max_examples=200, deadline=None)
@given(
    num_images=st.integers(2, 70),
    divisions=st.lists(st.tuples(st.integers(1, 20), st.integers(1, 3)), min_size=1, max_size=4),
    stops=st.lists(st.integers(0, 70), min_size=4, max_size=4),
)
def test_an_epoch_goes_on_with_any_batches_on_any_devices(num_images, divisions, stops):
    """No image is read twice, and none is left out but those that a whole epoch would leave out."""
    images, seen, state = dataset(num_images), [], None
    for number, ((batch_size, devices), stop) in enumerate(zip(divisions, stops, strict=False)):
        if num_images < devices:
            return
        orders = [TrainOrder(images, batch_size, 5, devices, rank) for rank in range(devices)]
        for order in orders:
            order.first_batch = 0 if state is None else order.continue_after(state)
        first = orders[0].first_batch
        passes = [list(order) for order in orders]
        assert {len(batches) for batches in passes} == {orders[0].num_batches - first}
        assert all(0 < len(batch) <= batch_size for batches in passes for batch in batches)
        is_last = number == len(divisions) - 1
        end = len(passes[0]) if is_last else min(stop, len(passes[0]))
        seen += [request.position for batches in passes for batch in batches[:end] for request in batch]
        state = {"batches": first + end, **orders[0].division(first + end)}
        assert len(seen) == len(set(seen)) == state["images"]
    left_out = num_images - len(seen)
    assert left_out < max(batch_size * devices, 1)
    if num_images % (batch_size * devices) == 0:
        assert left_out < devices


def test_the_global_batch_is_split_over_the_devices(monkeypatch):
    data = FashionMNIST(global_batch_size=64)
    assert len(next(iter(data.train_dataloader())).images) == 64
    monkeypatch.setattr(FashionMNIST, "_devices", (4, 1))
    assert data.device_batch_size == 16
    assert len(next(iter(data.val_dataloader())).images) == 16
    monkeypatch.setattr(FashionMNIST, "_devices", (3, 1))
    with pytest.raises(ValueError, match="global_batch_size is 64; allowed: a multiple of the 3 devices"):
        data.train_dataloader()
