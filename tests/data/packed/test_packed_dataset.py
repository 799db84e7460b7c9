import pytest
import torch

from cbam_lightning.data.packed.packed_dataset import SHARDS_AT_ONCE, shard_share

SHARD_OF = torch.arange(20_000) // 100  # 200 shards of 100 images


def share(shard_of=SHARD_OF, num_replicas=1, rank=0, seed=0):
    return shard_share(shard_of, torch.Generator().manual_seed(seed), num_replicas, rank)


def test_every_image_comes_once_and_in_another_order_with_another_seed():
    assert share().sort().values.tolist() == list(range(20_000))
    assert torch.equal(share(), share())
    assert not torch.equal(share(), share(seed=1))


def test_few_shards_are_read_at_a_time():
    order = SHARD_OF[share()]
    first = torch.tensor([(order == shard).nonzero().min() for shard in range(200)])
    last = torch.tensor([(order == shard).nonzero().max() for shard in range(200)])
    open_at = [int(((first <= i) & (i <= last)).sum()) for i in range(0, 20_000, 500)]
    assert max(open_at) <= SHARDS_AT_ONCE + 2
    assert min(open_at[5:-5]) > SHARDS_AT_ONCE / 2
    assert len(order[:128].unique()) <= 8  # the first batch does not wait for all of them
    assert len(order[10_000:10_128].unique()) > 8  # and later batches are mixed


def test_devices_share_an_epoch_without_overlap():
    shares = [share(SHARD_OF[:19_999], 3, rank) for rank in range(3)]
    assert [len(images) for images in shares] == [6666] * 3
    assert len(torch.cat(shares).unique()) == 3 * 6666
    touched = [len(SHARD_OF[images].unique()) for images in shares]
    assert max(touched) <= 69  # a third of 200, and two that are shared


@pytest.mark.parametrize("count", [1, 5])
def test_few_images_are_enough(count):
    assert share(torch.full((count,), 7)).sort().values.tolist() == list(range(count))
