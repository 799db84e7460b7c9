"""Transforms of torch.func, forward-mode AD and vectorised gradients: the plain operations, or one line."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import functional_call

from cbam_lightning.attention import implementation
from cbam_lightning.errors import UsageError
from cbam_lightning.models.resnet import BasicBlock
from tests.attention.checks import images, randomised
from tests.attention.fused.comparing import ARRANGEMENTS, create, function_of

# They run on a module in training whose BatchNorm does not update buffers, which vmap cannot.
EVERY = [*ARRANGEMENTS, "se", "block"]
pytestmark = pytest.mark.usefixtures("uncompiled")


@pytest.fixture(autouse=True)
def small_maps_count_as_large(monkeypatch):
    monkeypatch.setattr(implementation, "MIN_ELEMENTS", 1)
    monkeypatch.setattr(implementation, "has_compiler", lambda device_type: True)


def make(arrangement, choice):
    if arrangement == "block":
        module = BasicBlock(4, 4, 1)
        module.attention = create("channel-spatial", 4)
    else:
        module = create(arrangement, 4)
    module = randomised(module).double().train()
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.eval()
        if hasattr(part, "implementation"):
            part.implementation = choice
    return module


def per_sample_gradients(module, x):
    def loss(values, image):
        return functional_call(module, values, (image[None],)).square().sum()

    return torch.vmap(torch.func.grad(loss), (None, 0))(dict(module.named_parameters()), x)


def dual_parameters(module, x):
    with forward_ad.dual_level():
        values = {name: forward_ad.make_dual(p, p.cos()) for name, p in module.named_parameters()}
        return forward_ad.unpack_dual(functional_call(module, values, (x,))).tangent


def dual_input(module, x):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(module(forward_ad.make_dual(x, x.cos()))).tangent


TRANSFORMS = {
    "grad": lambda m, x: torch.func.grad(lambda x: m(x).square().sum())(x),
    "grad and value": lambda m, x: torch.func.grad_and_value(lambda x: m(x).square().sum())(x),
    "gradients for each image": per_sample_gradients,
    "vmap": lambda m, x: torch.vmap(m)(x[None]),
    "vjp": lambda m, x: torch.func.vjp(m, x)[1](x.cos()),
    "jvp": lambda m, x: torch.func.jvp(m, (x,), (x.cos(),)),
    "jacrev": lambda m, x: torch.func.jacrev(lambda s: m(x * s).mean((0, 2, 3)))(x[0, 0, 0, 0]),
    "jacfwd": lambda m, x: torch.func.jacfwd(lambda s: m(x * s).mean((0, 2, 3)))(x[0, 0, 0, 0]),
    "hessian": lambda m, x: torch.func.hessian(lambda s: m(x * s).square().mean())(x[0, 0, 0, 0]),
    "dual numbers": dual_input,
    "dual parameters": dual_parameters,
    "forward-mode jacobian": lambda m, x: torch.autograd.functional.jacobian(
        lambda s: m(x * s).mean((0, 2, 3)), x[0, 0, 0, 0], vectorize=True, strategy="forward-mode"
    ),
}


@pytest.mark.parametrize("choice", ["auto", "fused"])
@pytest.mark.parametrize("arrangement", EVERY)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_the_result_is_that_of_the_plain_operations(transform, arrangement, choice):
    x = images(2, 4, 3, 3)
    found, expected = (TRANSFORMS[transform](make(arrangement, c), x) for c in (choice, "reference"))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert function_of(make(arrangement, choice)(x.requires_grad_())).startswith("_Scale")  # as ever


def several_at_once(output, x):
    return torch.autograd.grad(output, x, torch.stack([output, output]), is_grads_batched=True)


def mapped(output, x):
    return torch.vmap(lambda v: torch.autograd.grad(output, x, v)[0])(torch.stack([output, output]))


def with_a_tangent(output, x):
    with forward_ad.dual_level():
        return torch.autograd.grad(output, x, forward_ad.make_dual(output.detach(), output.detach()))


@pytest.mark.parametrize("arrangement", EVERY)
@pytest.mark.parametrize("way", [several_at_once, mapped, with_a_tangent])
def test_a_backward_pass_that_is_transformed_is_refused(way, arrangement):
    x = images(2, 4, 3, 3).requires_grad_()
    way(make(arrangement, "reference")(x), x)
    with pytest.raises(UsageError, match=r"one gradient at a time.*implementation='reference'") as caught:
        way(make(arrangement, "auto")(x), x)
    assert "\n" not in str(caught.value)
