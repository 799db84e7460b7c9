"""What a forward and a backward pass launch and move, counted on tensors without memory."""

import math

import pytest

pytest.importorskip("triton")

from torch.utils._python_dispatch import TorchDispatchMode

from tests.attention.fused.kernels.recording import Call, record

SHAPE = (4, 64, 14, 14)
BOTH = ("channel-spatial", "spatial-channel", "parallel")
COUNTS = dict.fromkeys(BOTH, (8, 10)) | {"channel": (5, 6), "spatial": (4, 5)}
CALLS = [Call(order, SHAPE, maximum=maximum) for order in COUNTS for maximum in (True, False)]
CALLS += [
    Call(order, SHAPE, True, maximum) for order in ("channel-spatial", "channel") for maximum in (True, False)
]


def name_of(call):
    return f"{'end with ' * call.end}{call.order}{'' if call.maximum else ', mean alone'}"


@pytest.mark.parametrize("mode", ["track", "batch", "running"])
@pytest.mark.parametrize("call", CALLS, ids=name_of)
def test_launches(call, mode, monkeypatch):
    forward, backward = record(call._replace(mode=mode), monkeypatch)
    assert (len(forward), len(backward)) == COUNTS[call.order]


def test_a_synchronised_batch_norm_launches_its_sums(monkeypatch):
    forward, backward = record(Call("channel-spatial", SHAPE, end=True, synchronised=True), monkeypatch)
    assert (len(forward), len(backward)) == (10, 10)


class Allocations(TorchDispatchMode):
    """Counts new tensors with as many elements as the map, or more."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        new = any(word in str(function) for word in ("empty", "zeros", "clone", "_to_copy"))
        self.count += new and made.numel() >= math.prod(SHAPE)
        return made


@pytest.mark.parametrize("call", CALLS, ids=name_of)
def test_only_the_output_and_the_gradients_of_the_maps_are_allocated(call, monkeypatch):
    allocations = []

    def watch():
        allocations.append(Allocations())
        return allocations[-1]

    record(call, monkeypatch, watch)
    assert [each.count for each in allocations] == [1, 1 + call.end]
