"""Shared parts of the attention tests: inputs, random weights and comparisons."""

import contextlib
import copy
import re

import torch

SEED = 0  # with it, no ReLU of the literal comparisons is dead


def randomised(module, seed=SEED):
    """Give every parameter and statistic a random value: a BatchNorm weight of 0 would hide half the module.

    A normalisation keeps both signs alive behind a ReLU.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, value in module.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2, generator=generator)
        elif re.search(r"(bn|norm)\d?\.", name) and value.is_floating_point():
            value.normal_(1.0 if name.endswith("weight") else 0.0, 0.2, generator=generator)
        elif value.is_floating_point():
            value.normal_(0, 0.5, generator=generator)
    return module


def images(*shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def gradients_of(module):
    return {name: parameter.grad for name, parameter in module.named_parameters()}


def assert_equals_literal(module, formula, shape=(2, 6, 5, 4), without_gradient=()):
    """Compare output and every gradient of ``module`` with ``formula(x, weights)``, to 1e-12.

    The parameters named in ``without_gradient`` have a gradient of 0, all others do not.
    """
    x = images(*shape).requires_grad_()
    parameters = dict(module.named_parameters())
    copies = {name: p.detach().clone().requires_grad_() for name, p in parameters.items()}
    buffers = {name: b.clone() for name, b in module.named_buffers()}
    expected = formula(x, copies | buffers)
    output = module(x)
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)
    cotangent = images(*output.shape).cos()
    gradients = torch.autograd.grad(output, [x, *parameters.values()], cotangent)
    expected_gradients = torch.autograd.grad(expected, [x, *copies.values()], cotangent)
    for name, got, want in zip(["x", *parameters], gradients, expected_gradients, strict=True):
        if name in without_gradient:
            assert want.abs().max() < 1e-12, name
        else:
            assert want.abs().max() > 1e-9, f"the comparison says nothing about {name}"
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")


def assert_survives_large_inputs(module, dtype, device="cpu"):
    """Run ``module`` forward and backward on inputs of +-1e4, of one sign and of both.

    First under autocast, then converted: there a gradient of a weight, a sum, may exceed its own dtype.
    """
    large = torch.full((2, 8, 9, 10), 1e4, dtype=dtype, device=device)
    large[1] *= images(8, 9, 10).sign().to(device)
    converted = copy.deepcopy(module).to(dtype)
    for x in (large, -large):
        found = _results_of(module, x, torch.autocast(device, dtype=dtype))
        assert all(tensor.isfinite().all() for tensor in found.values()), found
        found = _results_of(converted, x, contextlib.nullcontext())
        assert found["output"].isfinite().all()
        assert found["x"].isfinite().all()


def _results_of(module, x, context):
    module.zero_grad()
    x = x.detach().clone().requires_grad_()
    with context:
        if hasattr(module, "gate_map"):
            assert module.gate_map(x).dtype == torch.float32
        output = module(x)
    assert output.dtype == x.dtype
    output.backward(torch.ones_like(output))
    return {"output": output.detach(), "x": x.grad, **gradients_of(module)}
