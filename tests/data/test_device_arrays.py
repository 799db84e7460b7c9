from unittest.mock import Mock

import pytest
import torch
from lightning_fabric.utilities import move_data_to_device
from torch.utils._python_dispatch import TorchDispatchMode

from cbam_lightning.data.arrays import ArrayDataset
from cbam_lightning.data.device_arrays import DeviceArrays, sent
from cbam_lightning.data.loader import BatchLoader, EvalOrder, TrainOrder
from cbam_lightning.data.normalisation import normalise
from cbam_lightning.data.sample_requests import SampleRequests
from cbam_lightning.errors import UsageError
from tests.data.generate import patches

CPU, NO_VALUES = torch.device("cpu"), torch.device("meta")


def source(pad_px=2, hflip=True, channels=3, count=50):
    images = torch.from_numpy(patches(count, 12, 12)).permute(0, 3, 1, 2)[:, :channels].contiguous()
    chosen = torch.arange(count)[::2]
    return ArrayDataset(images, torch.arange(count) % 7, pad_px, hflip, part="photos", positions=chosen)


def equal(batch, other):
    return all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(batch, other, strict=True))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("pad_px", "hflip"), [(0, False), (0, True), (3, False), (2, True)])
def test_batches_are_those_of_the_images_in_memory(pad_px, hflip, channels):
    images = source(pad_px, hflip, channels)
    held = DeviceArrays(images, CPU)
    # bare positions draw from the global generator, as in an evaluation or with overfit_batches
    for requests in ([3, 0, 3], [], SampleRequests(*drawn(25)), list(SampleRequests(*drawn(9)))):
        batches = []
        for each in (images, held):
            torch.manual_seed(0)
            batches.append((*each[requests], torch.rand(2)))
        assert equal(*batches)
    assert (held.name(4), held.digest(), len(held)) == (images.name(4), images.digest(), 25)


def drawn(count):
    generator = torch.Generator().manual_seed(count)
    seeds = torch.randint(2**63 - 1, (count,), generator=generator).numpy().astype("uint64")
    return torch.randperm(25, generator=generator)[:count].numpy(), 2 * seeds + 1


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("trains", [True, False])
def test_every_device_reads_its_own_share(trains, rank):
    images = source(2 * trains, trains)
    loaders = []
    for each in (images, DeviceArrays(images, CPU)):
        order = TrainOrder(images, 4, 5, 2, rank) if trains else EvalOrder(images, 4, 2, rank)
        loaders.append(BatchLoader(each, order, 0))
    for _ in range(2):
        pairs = list(zip(*loaders, strict=True))
        assert len(pairs) == (3 if trains else 4)
        assert all(equal(*pair) for pair in pairs)


@pytest.mark.parametrize("batch_size", [4, 3])
def test_a_run_goes_on_within_an_epoch_with_either(batch_size):
    images, held = source(), DeviceArrays(source(), CPU)
    rests = []
    for before, after in ((images, images), (images, held), (held, images)):
        stopped = BatchLoader(before, TrainOrder(images, 4, 5), 0)
        batches = iter(stopped)
        read = [next(batches) for _ in range(2)]
        resumed = BatchLoader(after, TrainOrder(images, batch_size, 5), 0)
        resumed.load_state_dict(stopped.state_dict())
        rests.append(read + list(resumed))
    for rest in rests[1:]:
        assert all(equal(*pair) for pair in zip(rests[0], rest, strict=True))


class _Calls(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.device == NO_VALUES and not func.is_view:
            self.names.append(func.overloadpacket.__name__)
        return result


def test_a_batch_takes_one_copy_and_few_operations_without_waiting():
    held = DeviceArrays(source(), NO_VALUES)  # an operation that needs a value of this device raises
    with _Calls() as calls:
        batch = held[SampleRequests(*drawn(8))]
    assert calls.names == ["_to_copy", "index", "_to_copy", "flip", "where"]  # the second one is to bool
    assert {each.device for each in batch} == {NO_VALUES}
    assert batch.images.shape == (8, 3, 12, 12)
    moved = move_data_to_device(batch, NO_VALUES)  # what Lightning does with it
    assert all(a is b for a, b in zip(batch, moved, strict=True))


def test_what_is_sent_to_a_gpu_is_pinned_and_not_waited_for():
    values, device = Mock(), torch.device("cuda", 1)
    assert sent(values, device) is values.pin_memory().to.return_value
    values.pin_memory().to.assert_called_once_with(device, non_blocking=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_makes_the_same_batches_and_is_not_waited_for():
    images, statistics = source(), ((0.5, 0.4, 0.3), (0.3, 0.2, 0.1))
    held = DeviceArrays(images, torch.device("cuda", 0))
    normalise(held[[0]].images, *statistics)  # memory is pinned, and mean and std are sent, once
    torch.cuda.set_sync_debug_mode("error")
    try:
        batch = held[SampleRequests(*drawn(25))]
        normalised = normalise(batch.images, *statistics)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert equal([each.cpu() for each in batch], images[SampleRequests(*drawn(25))])
    torch.testing.assert_close(normalised.cpu(), normalise(batch.images.cpu(), *statistics))


def test_only_batches_of_the_cpu_are_pinned(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    images = source()
    for each, pins in ((images, True), (DeviceArrays(images, NO_VALUES), False)):
        assert BatchLoader(each, EvalOrder(images, 4), 0).pin_memory is pins


def test_a_device_that_is_too_small_is_named_with_what_it_would_need(monkeypatch):
    images = source(pad_px=20)

    def refuse(*args):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch.Tensor, "to", refuse)
    with pytest.raises(UsageError) as caught:
        DeviceArrays(images, torch.device("cuda", 0))
    assert str(caught.value) == (
        "cuda:0 has too little memory left for 25 images of photos, which take 0.2 MB there; leave out "
        "--data.on_device."
    )
