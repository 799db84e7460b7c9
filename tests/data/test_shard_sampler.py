import pytest
import torch

from cbam_lightning.data.shard_sampler import SHARDS_AT_ONCE, ShardSampler

SHARD_OF = torch.arange(20_000) // 100  # 200 shards of 100 images


def test_every_image_comes_once():
    assert sorted(ShardSampler(SHARD_OF)) == list(range(20_000))
    assert len(ShardSampler(SHARD_OF)) == 20_000


def test_few_shards_are_read_at_a_time():
    order = SHARD_OF[torch.tensor(list(ShardSampler(SHARD_OF)))]
    first = torch.tensor([(order == shard).nonzero().min() for shard in range(200)])
    last = torch.tensor([(order == shard).nonzero().max() for shard in range(200)])
    open_at = [int(((first <= i) & (i <= last)).sum()) for i in range(0, 20_000, 500)]
    assert max(open_at) <= SHARDS_AT_ONCE + 2
    assert min(open_at[5:-5]) > SHARDS_AT_ONCE / 2
    assert len(order[:128].unique()) <= 8  # the first batch does not wait for all of them
    assert len(order[10_000:10_128].unique()) > 8  # and later batches are mixed


def test_one_device_follows_the_global_generator():
    torch.manual_seed(0)
    sampler = ShardSampler(SHARD_OF)
    first, second = list(sampler), list(sampler)
    torch.manual_seed(0)
    assert list(sampler) == first != second


def test_devices_share_an_epoch_without_overlap(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    samplers = [ShardSampler(SHARD_OF[:19_999], 3, rank) for rank in range(3)]
    torch.manual_seed(1)  # each process has its own
    epochs = []
    for epoch in (0, 1):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        shares = [list(sampler) for sampler in samplers]
        assert [len(share) for share in shares] == [6666] * 3 == [len(sampler) for sampler in samplers]
        assert len(set().union(*shares)) == 3 * 6666
        touched = [len(SHARD_OF[torch.tensor(share)].unique()) for share in shares]
        assert max(touched) <= 69  # a third of 200, and two that are shared
        epochs.append(shares)
    assert epochs[0] != epochs[1]
    for sampler in samplers:
        sampler.set_epoch(0)
    assert [list(sampler) for sampler in samplers] == epochs[0]


@pytest.mark.parametrize("count", [1, 5])
def test_few_images_are_enough(count):
    assert sorted(ShardSampler(torch.full((count,), 7))) == list(range(count))
