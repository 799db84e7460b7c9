"""Every kernel compiles for GPUs: without spilled registers, and with wide loads and stores of the map."""

import itertools
import math

import pytest
import torch

pytest.importorskip("triton")

from tests.attention.fused.kernels.compiling import compile_launch
from tests.attention.fused.kernels.recording import Call, record

RESNET_50 = [(128, 256, 56, 56), (128, 512, 28, 28), (128, 1024, 14, 14), (128, 2048, 7, 7)]
RESNET_20 = [(512, 16, 28, 28), (512, 32, 14, 14), (512, 64, 7, 7)]
ODD = [(1, 130, 9, 11), (2, 64, 1, 1), (1, 16, 5, 1), (3, 40, 4, 4), (7, 3000, 5, 3)]
FORMS = {
    "end with CBAM": Call("channel-spatial", (), True),
    "end with the channel gate": Call("channel", (), True),
    "end with SE": Call("channel", (), True, False),
    "CBAM": Call("channel-spatial", ()),
    "mean alone": Call("channel-spatial", (), maximum=False),
    "spatial gate first": Call("spatial-channel", ()),
    "parallel": Call("parallel", ()),
    "SE": Call("channel", (), maximum=False),
    "spatial gate": Call("spatial", ()),
}
WRITES_A_MAP = ("product_kernel", "input_gradient_kernel")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Compile each kernel once, into a cache of these tests."""
    folder = tmp_path_factory.mktemp("kernels")
    patch = pytest.MonkeyPatch()
    patch.setenv("TRITON_CACHE_DIR", str(folder / "cache"))
    yield lambda launch, architecture: compile_launch(launch, architecture, folder)
    patch.undo()


def assert_compiles(call, architecture, compiled, monkeypatch):
    width = widest(call)
    for launch in itertools.chain(*record(call, monkeypatch)):
        found = compiled(launch, architecture)
        assert found.stack == 0, f"{launch.name} spills {found.stack} bytes"
        if launch.maps(call.elements):
            assert max(found.loads) >= width, f"{launch.name} loads {found.loads}"
            if launch.name in WRITES_A_MAP:
                assert max(found.stores) >= width, f"{launch.name} stores {found.stores}"
        if call.end and call.order == "channel-spatial" and "gated(" in launch.kernel.src:
            # Otherwise the maximum that one kernel finds is none that another recognises.
            block, threads = launch.constants, 32 * launch.constants["num_warps"]
            assert found.fused >= block["BLOCK_P"] * block["BLOCK_C"] // threads, launch.name


def widest(call):
    """Return the most bytes, up to 16, that lie together in every image and channel or position."""
    _, channels, *sides = call.shape
    together = channels if call.channels_last and math.prod(sides) > 1 else math.prod(sides)
    return min(16, call.dtype.itemsize * math.gcd(together, 16)) if together > 1 else call.dtype.itemsize


@pytest.mark.parametrize("shape", [RESNET_50[0], RESNET_50[3], RESNET_20[0]], ids=str)
def test_the_end_of_a_block_compiles(shape, compiled, monkeypatch):
    assert_compiles(FORMS["end with CBAM"]._replace(shape=shape), 90, compiled, monkeypatch)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("channels_last", [True, False], ids=["NHWC", "NCHW"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_it_compiles_everywhere(dtype, channels_last, architecture, compiled, monkeypatch):
    for shape in RESNET_50 + RESNET_20 + ODD * (architecture == 90):
        call = Call("channel-spatial", shape, True, dtype=dtype, channels_last=channels_last)
        assert_compiles(call, architecture, compiled, monkeypatch)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("channels_last", [True, False], ids=["NHWC", "NCHW"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_compiles(form, channels_last, compiled, monkeypatch):
    for shape in (RESNET_50[0], RESNET_50[3], RESNET_20[1], ODD[0]):
        assert_compiles(
            FORMS[form]._replace(shape=shape, channels_last=channels_last), 90, compiled, monkeypatch
        )


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"mode": "running"}, {"mode": "batch"}, {"synchronised": True}], ids=str)
def test_every_kind_of_statistics_compiles(change, compiled, monkeypatch):
    call = FORMS["end with CBAM"]._replace(shape=RESNET_50[0], **change)
    assert_compiles(call, 90, compiled, monkeypatch)
