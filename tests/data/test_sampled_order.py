import pytest
import torch
from torch.utils.data import RandomSampler

from cbam_lightning.data import FashionMNIST, ImageFolder
from cbam_lightning.data.arrays import ArrayDataset
from cbam_lightning.data.sampled_order import BalancedSampler, SampledOrder
from cbam_lightning.errors import UsageError
from tests.data.generate import write_image_folder
from tests.data.own import Some, Wild


def unequal(*sizes):
    """Images of the given number of each class, in mixed order."""
    labels = torch.cat([torch.full((size,), label) for label, size in enumerate(sizes)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    return ArrayDataset(torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8), labels)


def order(images, batch_size=8, seed=0, num_replicas=1, rank=0, sampler=BalancedSampler):
    return SampledOrder(images, batch_size, seed, num_replicas, rank, sampler=sampler)


def flat(batches):
    return [item for batch in batches for item in batch]


def test_classes_are_drawn_equally_often_and_their_images_too():
    images = unequal(1000, 100, 10, 0, 2)
    draws = []
    balanced = order(images)
    for epoch in range(8):
        balanced.set_epoch(epoch)
        draws += [draw.position for draw in flat(balanced)]
    assert len(draws) == 8 * 1112
    counts = images.labels[torch.tensor(draws)].bincount(minlength=5)
    # four classes with p = 1/4: a standard deviation of 41
    assert counts[3] == 0
    assert (counts[[0, 1, 2, 4]] - 8 * 1112 / 4).abs().max() < 5 * 41
    of_third = torch.tensor(draws)[images.labels[torch.tensor(draws)] == 2].bincount().float()
    of_third = of_third[of_third > 0]
    assert len(of_third) == 10
    assert (of_third - counts[2] / 10).abs().max() < 5 * (float(counts[2]) * 0.09) ** 0.5


def test_an_order_follows_from_seed_and_epoch_alone():
    images = unequal(60, 20)
    state = torch.get_rng_state()
    first, again, other = (list(order(images, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert first == again != other
    second = order(images)
    second.set_epoch(1)
    assert list(second) != first
    second.set_epoch(0)
    assert list(second) == first
    second.first_batch = 7
    assert list(second) == first[7:]


@pytest.mark.parametrize("sampler", [BalancedSampler, Some])
def test_devices_share_the_batches_of_one_device(sampler):
    images = unequal(60, 41)
    single = list(order(images, 8, 3, sampler=sampler))
    pair = [list(order(images, 4, 3, 2, rank, sampler=sampler)) for rank in (0, 1)]
    assert [sorted(flat(together)) for together in zip(*pair, strict=True)] == [sorted(b) for b in single]


def test_an_image_drawn_twice_gets_two_seeds():
    draws = flat(order(unequal(60, 2)))
    assert len({draw.position for draw in draws}) < len(draws)
    assert len({draw.seed for draw in draws}) == len(draws)


@pytest.mark.parametrize(("count", "sizes"), [(20, [8, 8]), (5, [5]), (300, [8] * 37)])
def test_a_sampler_may_give_any_number_of_images(count, sizes):
    made = []

    def sampler(images):
        made.append(Some(images, count))
        return made[-1]

    some = order(unequal(60, 20), sampler=sampler)
    some.set_epoch(3)
    assert [len(batch) for batch in some] == sizes
    assert len(some) == len(sizes)
    assert [s.epoch for s in made] == [3]


def test_samplers_of_torch():
    images = unequal(60, 20)
    draws = [draw.position for draw in flat(order(images, sampler=RandomSampler))]
    assert sorted(draws) == list(range(80))
    assert draws != [draw.position for draw in flat(order(images, seed=1, sampler=RandomSampler))]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("80", r"--data\.sampler Wild gave 80; allowed: positions from 0 to 79, one at a time"),
        ("-1", "gave -1; allowed"),
        ("[1, 2]", r"gave \[1, 2\]; allowed"),
    ],
)
def test_positions_that_there_are_not_are_refused(given, text):
    with pytest.raises(UsageError, match=text):
        list(order(unequal(60, 20), sampler=lambda images: Wild(images, given)))


def test_refusals():
    images = unequal(6, 2)
    with pytest.raises(UsageError, match="Some gave 0 images; allowed: at least one for each device"):
        len(order(images, sampler=lambda images: Some(images, 0)))
    images.is_streamed = True
    with pytest.raises(UsageError, match="fetched from an object store shard by shard; copy it"):
        order(images)
    with pytest.raises(UsageError, match="balanced is True; allowed: false, as the sampler chooses"):
        FashionMNIST(balanced=True, sampler=Some)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_pass_goes_on_where_another_stopped(tmp_path, num_workers):
    write_image_folder(tmp_path, ("cat",), 12)
    write_image_folder(tmp_path, ("dog",), 4)
    torch.manual_seed(0)
    options = {"size_px": 24, "batch_size": 4, "num_workers": num_workers, "balanced": True}
    data = ImageFolder(str(tmp_path), **options)
    whole = list(data.train_dataloader())
    loader = ImageFolder(str(tmp_path), **options).train_dataloader()
    loader.load_state_dict({"epoch": 0, "batches": 1})
    rest = list(loader)
    assert len(rest) == len(whole) - 1 == 2
    for one, other in zip(rest, whole[1:], strict=True):
        assert torch.equal(one.indices, other.indices)
        assert torch.equal(one.images, other.images)
