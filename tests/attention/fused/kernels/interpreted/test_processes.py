"""Synchronised BatchNorms: two processes with kernels against one with all images and none."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from cbam_lightning.models.resnet import BasicBlock
from cbam_lightning.models.sync_batch_norm import synchronise_batch_norm
from tests.attention.checks import randomised
from tests.attention.fused.comparing import as_fused, create, fresh
from tests.attention.fused.kernels.interpreted.cases import create_end
from tests.attention.fused.kernels.interpreted.comparing import TOLERANCE, cotangent

COUNTS = [(1, 3), (0, 4)]
CASES = {
    "cbam": lambda: create_end("channel-spatial", 8),
    "se": lambda: create_end("se", 8),
    "lone cbam": lambda: create("spatial-channel").float(),
    "block": lambda: with_attention(BasicBlock(4, 8, 1)),
}
ALL_REDUCES = {"cbam": (2, 2), "se": (1, 1), "lone cbam": (1, 1)}


def with_attention(block):
    block.attention = create("channel-spatial")
    return randomised(block).float()


def maps_for(name):
    generator = torch.Generator().manual_seed(5)
    channels = 4 if name == "block" else 8
    maps = [3 + torch.randn(4, channels, 4, 3, generator=generator) for _ in range(2)]
    return [x.requires_grad_() for x in (maps if name in ("cbam", "se") else maps[:1])]


def run(module, maps, gradient, called=()):
    """Run forward and backward.

    Returns:
        What belongs to the images, to the parameters, the statistics, and how often ``called`` grew.
    """
    maps = [fresh(x) for x in maps]
    output = module(*maps)
    forward = len(called)
    output.backward(gradient)
    of_images = [output.detach(), *(x.grad for x in maps)]
    gradients = {name: p.grad for name, p in module.named_parameters()}
    return of_images, gradients, dict(module.named_buffers()), (forward, len(called) - forward)


def share_of(name, rank, counts):
    """Run the images of one process, and count its all-reduces."""
    module = synchronise_batch_norm(as_fused(CASES[name]()))
    own = slice(rank * counts[0], rank * counts[0] + counts[rank])
    maps = [x.detach()[own].clone().requires_grad_() for x in maps_for(name)]
    plain, called = dist.all_reduce, []
    dist.all_reduce = lambda tensor: called.append(1) or plain(tensor)
    try:
        return run(module, maps, gradient_of_output()[own], called)
    finally:
        dist.all_reduce = plain


def gradient_of_output():
    return cotangent(torch.empty(4, 8, 4, 3))


def process(rank, folder):
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    try:
        found = {(name, counts): share_of(name, rank, counts) for name in CASES for counts in COUNTS}
        torch.save(found, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def shares(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(process, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("name", CASES)
def test_two_processes_equal_one_with_all_images(shares, name, counts):
    (images0, gradients0, buffers0, _), (images1, gradients1, buffers1, _) = (s[name, counts] for s in shares)
    torch.testing.assert_close(buffers0, buffers1, rtol=0, atol=0)
    exact, maps = CASES[name]().double(), [x.double() for x in maps_for(name)]
    of_images, gradients, buffers, _ = run(exact, maps, gradient_of_output().double())
    pairs = [(torch.cat(parts), want) for *parts, want in zip(images0, images1, of_images, strict=True)]
    pairs += [(gradients0[key] + gradients1[key], want) for key, want in gradients.items()]
    pairs += [(buffers0[key], want) for key, want in buffers.items()]
    for found, want in pairs:
        size = max(float(want.abs().max()), 1.0 if want.numel() == 1 else 0.0)
        assert float((found - want).abs().max()) <= 3 * TOLERANCE * size


@pytest.mark.parametrize("name", ALL_REDUCES)
def test_a_batch_norm_costs_one_all_reduce_in_each_direction(shares, name):
    # without kernels, a BatchNorm would cost two forward
    assert {share[name, counts][-1] for share in shares for counts in COUNTS} == {ALL_REDUCES[name]}
