"""Gates of the size of the map: what is kept of them, and subclasses."""

import pytest
import torch

from cbam_lightning.attention import SCSE, create_attention, list_attention
from cbam_lightning.attention.full_gate import FullGate
from tests.attention.checks import images
from tests.attention.test_every_module import HALF, create
from tests.attention.test_half_precision import half_map, large_saved

NAMES = [name for name in list_attention() if isinstance(create_attention(name, 8), FullGate)]


def test_there_are_some():
    assert {"bam", "scse", "simam"} <= {*NAMES}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dims", [1, 2, 3])
@HALF
def test_nothing_of_the_size_of_the_map_is_kept_but_the_map_and_parts_of_that_size(name, dims, dtype):
    module, x = create(name, {}, channels=32, dims=dims), half_map(dtype, (2, 32, *(12, 11, 10)[:dims]))
    parts_of_its_size = [part for part in module.parts(x) if part.numel() == x.numel()]
    assert dims == 1 or not parts_of_its_size  # in one dimension, a profile may be the map itself
    own = [*module.parameters(), *module.buffers()]
    assert large_saved(module, x, own) == [dtype, *(part.dtype for part in parts_of_its_size)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_gate_map_is_what_forward_multiplies_with(name, dtype):
    module, x = create(name, {}).double() if dtype == torch.float64 else create(name, {}), images(2, 8, 5, 4)
    x = x.to(dtype).requires_grad_()
    assert torch.equal(module.eval()(x), (x * module.gate_map(x)).to(dtype))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore:.*deprecated", "ignore::torch.jit.TracerWarning")
def test_a_trace_takes_maps_of_other_sizes(name):
    module = create(name, {}).eval()
    traced, x = torch.jit.trace(module, images(2, 8, 5, 4).float()), images(3, 8, 7, 6).float()
    torch.testing.assert_close(traced(x), module(x))


@pytest.mark.parametrize("name", NAMES)
def test_channels_last_is_kept_in_three_dimensions(name):
    x = images(2, 8, 5, 4, 3).float().to(memory_format=torch.channels_last_3d).requires_grad_()
    output = create(name, {}, dims=3)(x)
    output.sum().backward()
    for tensor in (output, x.grad):
        assert tensor.is_contiguous(memory_format=torch.channels_last_3d)


def test_a_subclass_may_have_another_gate():
    class Halved(SCSE):
        def compute_gate(self, x):
            return super().compute_gate(x) / 2

    x = images(2, 8, 5, 4)
    module = Halved(8).double()
    assert torch.equal(module(x), x * module.gate_map(x))
    plain = SCSE(8).double()
    plain.load_state_dict(module.state_dict())
    torch.testing.assert_close(module(x), plain(x) / 2)
