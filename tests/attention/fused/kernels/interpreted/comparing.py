"""Comparison of the kernels with the reference in float64."""

import copy

import torch

from tests.attention.fused.comparing import as_fused, fresh

TOLERANCE = 1e-5
# The maps are stored in the dtype of the input: one rounding, of some 8 or 11 bits.
ROUNDED = {torch.float32: TOLERANCE, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def runs_kernels(output):
    """Return whether the kernels made an output that has a gradient."""
    return type(output.grad_fn).__name__ == "_AttendBackward"


def cotangent(output):
    """Return a gradient of an output that every dtype has exactly."""
    generator = torch.Generator().manual_seed(2)
    return torch.randn(output.shape, generator=generator).bfloat16().to(output)


def results(module, *inputs):
    """Run forward and backward; return the output with its graph, and all results by name."""
    inputs = [fresh(x) for x in inputs]
    output = module(*inputs)
    output.backward(cotangent(output))
    found = {"output": output.detach()}
    found |= {f"d_input {i}": x.grad for i, x in enumerate(inputs)}
    found |= {f"d_{name}": p.grad for name, p in module.named_parameters()}
    return output, found | {name: b.clone() for name, b in module.named_buffers()}


def exact_results(module, *inputs):
    """Return the results of a reference in float64, and for each what its error is divided by."""
    exact, scales = copy.deepcopy(module).double(), {}
    for name, part in exact.named_modules():
        if name.endswith("spatial"):  # gradients that are few numbers, sums that may cancel
            part.bn.register_forward_hook(_sum_of_sizes(scales, name, part.conv))
    # Side by side, every channel is computed in the same way, so that equal channels stay equal.
    _, found = results(exact, *(x.detach().double().contiguous().requires_grad_() for x in inputs))
    for name, value in found.items():
        if value.numel() and value.is_floating_point():
            scales[name] = max(scales.get(name, 1e-30), float(value.abs().max()))
    return found, scales


def _sum_of_sizes(scales, name, conv):
    """Return a hook of the BatchNorm, which adds up the sizes of the terms of the gradients."""
    seen = []
    conv.register_forward_hook(lambda _conv, inputs, _output: seen.append(inputs[0].detach().abs().max()))

    def watch(bn, inputs, output):
        variance = inputs[0].var(correction=0) if bn.training or bn.running_var is None else bn.running_var
        slope = float(abs(1 if bn.weight is None else bn.weight) / (variance + bn.eps).sqrt())

        def add(gradient):
            total = float(gradient.abs().sum()) + 1e-30
            scales[f"d_{name}.bn.weight"] = scales[f"d_{name}.bn.bias"] = total
            scales[f"d_{name}.conv.weight"] = total * slope * float(seen[0]) + 1e-30

        output.register_hook(add)

    return watch


def errors_of(found, exact, scales):
    """Return the largest error of each result, relative; whole numbers have to be equal."""
    assert found.keys() == exact.keys()
    errors = {}
    for name, want in exact.items():
        got = found[name]
        assert got.shape == want.shape, name
        if not want.is_floating_point():
            assert torch.equal(got, want), name
        elif want.numel():
            errors[name] = float((got.double() - want).abs().max()) / scales[name]
    return errors


def assert_equals_reference(module, *inputs, tolerance=TOLERANCE):
    """Compare the kernels with the reference in float64: every result, its layout and its dtype.

    Where numbers cancel, twice the error of the plain operations in float32 is allowed.

    Args:
        tolerance: In float32.

    Returns:
        The relative errors.
    """
    output, found = results(as_fused(module), *inputs)
    assert runs_kernels(output)
    exact, scales = exact_results(module, *inputs)
    errors, plain = errors_of(found, exact, scales), {}
    like = {"output": inputs[0]} | {f"d_input {i}": x for i, x in enumerate(inputs)}
    for name, error in errors.items():
        assert found[name].dtype == (like[name].dtype if name in like else torch.float32), name
        if name in like:
            assert found[name].stride() == torch.empty_like(like[name]).stride(), name
        allowed = max(tolerance, ROUNDED[inputs[0].dtype] if name in like else 0)
        if not error <= allowed:
            plain = plain or _plain_errors(module, inputs, exact, scales)
            assert error <= max(allowed, 2 * plain[name]), (name, error, plain[name])
    return errors


def _plain_errors(module, inputs, exact, scales):
    wide = [x.detach().float().requires_grad_() for x in inputs]
    return errors_of(results(copy.deepcopy(module), *wide)[1], exact, scales)
