import pytest
import torch

from cbam_lightning.data import FashionMNIST, ImageFolder
from tests.data.generate import write_image_folder


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
    assert state == {"epoch": 1, "batches": batches} if batches else state["epoch"] == 0
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
    assert loader.state_dict() == {"epoch": 4, "batches": 9}


def test_the_global_batch_is_split_over_the_devices(monkeypatch):
    data = FashionMNIST(global_batch_size=64)
    assert len(next(iter(data.train_dataloader())).images) == 64
    monkeypatch.setattr(FashionMNIST, "_devices", (4, 1))
    assert data.device_batch_size == 16
    assert len(next(iter(data.val_dataloader())).images) == 16
    monkeypatch.setattr(FashionMNIST, "_devices", (3, 1))
    with pytest.raises(ValueError, match="global_batch_size is 64; allowed: a multiple of the 3 devices"):
        data.train_dataloader()
