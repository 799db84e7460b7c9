"""Maps in half precision: what the backward pass keeps of them, and how precise it is."""

import copy

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

from cbam_lightning.attention import CBAM, half_precision
from cbam_lightning.benchmarks.memory import saved_bytes
from tests.attention.checks import images, randomised
from tests.attention.test_every_module import EVERY_CASE, HALF, MODE, OperationNames, create

# Self-attention has positions x positions weights, which here are fewer than the elements of the map.
SHAPE = (3, 16, 3, 4)


def half_map(dtype, shape=SHAPE):
    return images(*shape).to(dtype).requires_grad_()


def plainly(monkeypatch):
    """Let every operation be an ordinary one, on a float32 copy of the map."""
    monkeypatch.setattr(half_precision, "_is_traced", lambda: True)


def gradients(module, x, grad=None):
    output = module(x)
    grad = images(*output.shape).cos().to(output.dtype) if grad is None else grad
    return [output, *torch.autograd.grad(output, [x, *module.parameters()], grad)]


def large_saved(module, x):
    """List the dtype of every saved storage that has a view of the map's size."""
    found = {}

    def pack(tensor):
        if tensor.numel() >= x.numel():
            found[tensor.untyped_storage().data_ptr()] = tensor.dtype
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        output = module(x)
    del output
    return list(found.values())


@EVERY_CASE
@MODE
@HALF
@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "plain"])
def test_nothing_of_the_size_of_the_map_is_kept_in_float32(name, options, training, dtype, autocast):
    module = create(name, options, channels=16).train(training)
    own = [*module.parameters(), *module.buffers()]

    def call(x):
        with torch.autocast("cpu", dtype=dtype, enabled=autocast):
            return module(x)

    x, wide = half_map(dtype), half_map(torch.float32)
    kept = large_saved(call, x)
    assert set(kept) <= {dtype}
    assert len(kept) == (0 if name == "none" else 2 if "cbam" in name and len(module.gates) == 2 else 1)
    most = saved_bytes(lambda: module(wide), own) - 2 * len(kept) * x.numel()
    assert saved_bytes(lambda: call(x), own) <= most


@EVERY_CASE
@HALF
def test_values_and_gradients_are_those_of_the_plain_operations(name, options, dtype, monkeypatch):
    module, x = create(name, options), half_map(dtype, (3, 8, 5, 4))
    got = gradients(copy.deepcopy(module), x)
    plainly(monkeypatch)
    expected = gradients(copy.deepcopy(module), x)
    if name not in ("bam", "sagan"):  # their branches round the gradient of the map one by one
        assert all(map(torch.equal, got, expected))
    double = module.double()
    truth = gradients(double, x.detach().double().requires_grad_())
    for found, plain, true in zip(got, expected, truth, strict=True):
        errors = [(values.double() - true).abs().max() for values in (found, plain)]
        assert errors[0] <= 1.5 * errors[1] + 1e-6 * true.abs().max()


@EVERY_CASE
def test_second_derivatives_are_those_of_the_plain_operations(name, options, monkeypatch):
    module, x = create(name, options).eval(), half_map(torch.bfloat16, (2, 8, 3, 4))

    def second():
        tensors = [x, *module.parameters()]
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels of self-attention have no second derivative
            (first,) = torch.autograd.grad(module(x).float().square().sum(), x, create_graph=True)
            return torch.autograd.grad(first.float().sin().sum(), tensors, allow_unused=True)

    got = second()
    plainly(monkeypatch)
    for found, expected in zip(got, second(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05 * float(expected.abs().max()))


class TestSurroundings:
    @pytest.fixture
    def module(self):
        return randomised(CBAM(8, spatial_pool="conv1x1", implementation="reference"))

    @pytest.fixture
    def x(self):
        return half_map(torch.bfloat16, (2, 8, 5, 4))

    def test_hooks_run_once(self, module, x):
        seen, calls = [], []
        x.register_hook(seen.append)
        module.spatial.reduce.register_forward_hook(lambda *_: calls.append(1))
        module(x).sum().backward()
        assert len(seen) == len(calls) == 1
        assert torch.equal(seen[0], x.grad)

    def test_a_backward_pass_under_autocast_is_not_rounded(self, module, x):
        expected = gradients(copy.deepcopy(module), x)
        output = module(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = torch.autograd.grad(output, [x, *module.parameters()], images(*x.shape).cos().bfloat16())
        assert all(map(torch.equal, got, expected[1:]))

    def test_several_gradients_at_once(self, module, x):
        grads = torch.stack([images(*x.shape).cos(), images(*x.shape).sin()]).bfloat16()
        (got,) = torch.autograd.grad(module(x), x, grads, is_grads_batched=True)
        for found, grad in zip(got, grads, strict=True):
            torch.testing.assert_close(found, gradients(module, x, grad)[1], rtol=0.02, atol=0.02)

    @pytest.mark.parametrize("reentrant", [True, False])
    def test_a_checkpoint_around_it(self, module, x, reentrant):
        expected = gradients(module.eval(), x, torch.ones_like(x))
        output = checkpoint(module, x, use_reentrant=reentrant)
        output.sum().backward()
        assert torch.equal(x.grad, expected[1])

    def test_a_frozen_layer_and_an_input_without_gradient(self, module, x):
        expected = gradients(copy.deepcopy(module), x)
        module.spatial.reduce.weight.requires_grad_(False)
        output = module(x)
        (got,) = torch.autograd.grad(output, x, images(*x.shape).cos().bfloat16())
        assert torch.equal(got, expected[1])
        module.spatial.reduce.weight.requires_grad_(True)
        module(x.detach()).backward(images(*x.shape).cos().bfloat16())
        weight = list(dict(module.named_parameters())).index("spatial.reduce.weight")
        assert torch.equal(module.spatial.reduce.weight.grad, expected[2 + weight])

    def test_a_layer_that_was_replaced_gets_float32(self, module, x):
        expected = gradients(copy.deepcopy(module), x)
        plain = torch.nn.Conv2d(8, 1, 1, bias=False)
        plain.load_state_dict(module.spatial.reduce.state_dict())
        module.spatial.reduce = plain
        assert all(map(torch.equal, gradients(module, x), expected))

    def test_pools_make_no_copy_where_nothing_is_differentiated(self, x):
        made = []

        class Sizes(OperationNames):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                result = function(*args, **(kwargs or {}))
                made.extend((t.numel(), t.dtype) for t in pytree.tree_leaves(result))
                return result

        module = CBAM(8, implementation="reference").eval()
        with torch.no_grad(), Sizes():
            module.gate_maps(x)
        assert made.count((x.numel(), torch.float32)) == 2  # the products with the gates
