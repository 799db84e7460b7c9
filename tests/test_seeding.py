import random

import numpy as np
import torch

from cbam_lightning.seeding import (
    Stream,
    derive_seed,
    image_seeds,
    own_stream,
    run_seed,
    seed_all,
    spared_generator,
)


def splitmix64(state, count):
    """Transcribe the published generator, https://prng.di.unimi.it/splitmix64.c."""
    mask, numbers = 2**64 - 1, []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        numbers.append(z ^ (z >> 31))
    return numbers


def test_image_seeds_are_splitmix64s_numbers_in_any_order():
    # the tests of the reference implementation state the first output for seed 1234567
    assert splitmix64(1234567, 1) == [6457827717110365317]
    for base in (0, 1234567, 2**64 - 1):
        expected = splitmix64(base, 100)
        asked = np.array([99, 0, 7, 7])
        assert image_seeds(base, asked).tolist() == [expected[i] for i in asked]


def test_every_bit_of_the_seeds_is_even():
    seeds = image_seeds(derive_seed(Stream.IMAGES, 0, 3), np.arange(100_000))
    shares = [(seeds >> np.uint64(bit) & np.uint64(1)).mean() for bit in range(64)]
    assert max(abs(share - 0.5) for share in shares) < 0.01  # six standard errors of 0.0016


def test_places_and_streams_have_seeds_of_their_own():
    places = [(seed, epoch, batch) for seed in range(4) for epoch in range(4) for batch in range(4)]
    seeds = {derive_seed(stream, *place) for place in places for stream in Stream}
    assert len(seeds) == len(places) * len(Stream)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(Stream.STEP, 1, 2) == derive_seed(Stream.STEP, 1, 2)


def test_the_seed_is_the_runs_or_torchs_own(monkeypatch):
    torch.manual_seed(17)
    assert run_seed() == 17
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    assert run_seed() == 5


def test_devices_that_are_not_in_use_cost_nothing(monkeypatch):
    for kind in (torch.cuda, torch.xpu, torch.mtia):
        monkeypatch.setattr(kind, "_lazy_call", None)  # formats the call stack, and keeps it
    seed_all(3)
    drawn = torch.rand(2)
    monkeypatch.undo()
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(2))


def test_devices_in_use_are_seeded(monkeypatch):
    seeds = []
    for kind in (torch.cuda, torch.xpu, torch.mtia):
        monkeypatch.setattr(kind, "is_initialized", lambda: True)
        monkeypatch.setattr(kind, "manual_seed_all", seeds.append)
    seed_all(5)
    assert seeds == [5, 5, 5]


def test_all_generators_are_seeded():
    drawn = []
    for _ in range(2):
        seed_all(2**62 + 1)
        drawn.append((random.random(), float(np.random.rand()), float(torch.rand(()))))  # noqa: NPY002
    assert drawn[0] == drawn[1]


def test_the_global_generator_is_set_back():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with spared_generator() as generator:
        generator.manual_seed(7)
        inside = torch.rand(1)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(inside, torch.rand(1, generator=torch.Generator().manual_seed(7)))


def test_what_a_part_draws_moves_nothing_that_is_drawn_after_it():
    later = []
    for number in (0, 1, 1000):
        torch.manual_seed(3)
        with own_stream():
            inside = torch.rand(number)
        later.append(torch.rand(4))
    assert torch.equal(later[0], later[1])
    assert torch.equal(later[0], later[2])
    torch.manual_seed(3)
    with own_stream():
        assert torch.equal(torch.rand(1000), inside)
    with own_stream():
        assert not torch.equal(torch.rand(1000), inside)
