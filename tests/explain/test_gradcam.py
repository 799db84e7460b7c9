"""Grad-CAM, compared with the formula of the paper written out."""

import math

import pytest
import torch
from torch import nn
from torchvision.models import SwinTransformer, VisionTransformer, mobilenet_v2

from cbam_lightning.attention import list_attention
from cbam_lightning.errors import UsageError
from cbam_lightning.explain import GradCAM, enlarge
from cbam_lightning.models import create_model
from tests.attention.checks import images, randomised

SIZES = {"square": (24, 24), "tall": (40, 24), "wide": (24, 56)}


def small_resnet(attention="cbam", widths=(4, 6, 8)):
    network = create_model(
        "resnet20", attention=attention, num_classes=5, widths=widths, depths=(1, 1, 1), stem_width=4
    )
    return randomised(network, seed=3).double()


def literal(features, logits, targets):
    """Compute equations 1 and 2 image by image and channel by channel: (N, h, w)."""
    maps = []
    for i, target in enumerate(targets):
        (gradient,) = torch.autograd.grad(logits[i, target], features, retain_graph=True)
        total = torch.zeros_like(features[i, 0])
        for channel in range(features.shape[1]):
            weight = gradient[i, channel].sum() / gradient[i, channel].numel()
            total = total + weight * features[i, channel]
        maps.append(torch.where(total > 0, total, 0.0).detach())
    return torch.stack(maps)


def resized(image, height, width):
    """Interpolate linearly between the centres of the cells, position by position."""
    rows, columns = image.shape
    result = torch.zeros(height, width, dtype=image.dtype)
    for y in range(height):
        for x in range(width):
            down = min(max((y + 0.5) * rows / height - 0.5, 0), rows - 1)
            right = min(max((x + 0.5) * columns / width - 0.5, 0), columns - 1)
            top, left = math.floor(down), math.floor(right)
            bottom, far = min(top + 1, rows - 1), min(left + 1, columns - 1)
            upper = image[top, left] * (1 - right + left) + image[top, far] * (right - left)
            lower = image[bottom, left] * (1 - right + left) + image[bottom, far] * (right - left)
            result[y, x] = upper * (1 - down + top) + lower * (down - top)
    return result


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("attention", list_attention())
def test_is_the_papers_formula_at_the_last_stage(attention, size):
    network = small_resnet(attention, widths=(4, 4, 8)).eval()  # four heads
    x, targets = images(3, 3, *size), [4, 0, 2]
    found = GradCAM(network, example=x.shape)(x, torch.tensor(targets))
    features = network.forward_features(x)
    logits = network.forward_head(features)
    expected = literal(features, logits, targets)
    assert expected.max() > 1e-3, "the comparison says nothing"
    torch.testing.assert_close(found.maps, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.logits, logits.detach())
    assert found.targets.tolist() == targets
    large = enlarge(found.maps, size)
    for got, want in zip(large, expected, strict=True):
        torch.testing.assert_close(got, resized(want, *size), rtol=0, atol=1e-6)


def test_is_the_papers_formula_at_a_named_layer_in_front_of_an_operation_in_place():
    torch.manual_seed(0)
    network, x = mobilenet_v2(num_classes=5).double().eval(), images(2, 3, 64, 96)
    layer = "features.15.conv.0.1"  # a BatchNorm, whose output a ReLU6 then overwrites
    found = GradCAM(network, layer, x.shape)(x, torch.tensor([1, 3]))
    inside = network.features[15].conv
    below = network.features[:15](x)
    features = inside[0][1](inside[0][0](below))
    rest = inside[3](inside[2](inside[1](features.clamp(0, 6)))) + below
    logits = network.classifier(network.features[16:](rest).mean((2, 3)))
    torch.testing.assert_close(found.maps, literal(features, logits, [1, 3]), rtol=1e-9, atol=1e-15)


def test_the_predicted_class_is_the_target_left_out():
    network, x = small_resnet(), images(4, 3, 24, 24)
    cam = GradCAM(network, example=x.shape)
    assert torch.equal(cam(x).targets, network.eval()(x).argmax(1))
    assert torch.equal(cam(x, 2).maps, cam(x, torch.full((4,), 2)).maps)


def state(network):
    hooks = [
        (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks), len(m._backward_pre_hooks))
        for m in network.modules()
    ]
    modes = [m.training for m in network.modules()]
    gradients = [p.grad for p in network.parameters()]
    return hooks, modes, gradients, [b.clone() for b in network.buffers()]


def assert_same_state(network, before):
    hooks, modes, gradients, buffers = state(network)
    assert (hooks, modes, gradients) == before[:3]
    assert all(torch.equal(a, b) for a, b in zip(buffers, before[3], strict=True))


def test_leaves_no_trace():
    network, x = small_resnet(), images(2, 3, 24, 24)
    network.train()
    network.layer2.eval()
    before = state(network)
    cam = GradCAM(network, example=x.shape)
    assert cam(x).maps.amax() > 0
    assert_same_state(network, before)
    assert not x.requires_grad


class Breaks(nn.Module):
    def __init__(self, network, at):
        super().__init__()
        self.network, self.at = network, at

    def forward(self, x):
        if self.at == "forward" and not x.is_meta:
            msg = "broken in the middle"
            raise RuntimeError(msg)
        logits = self.network(x)
        if self.at == "backward" and logits.requires_grad:
            logits.register_hook(self.fail)
        return logits

    def fail(self, gradient):
        msg = "broken in the middle"
        raise RuntimeError(msg)


@pytest.mark.parametrize("at", ["forward", "backward"])
def test_leaves_no_trace_after_an_exception(at):
    network, x = Breaks(small_resnet(), at).train(), images(2, 3, 24, 24)
    cam = GradCAM(network, "network.layer3", x.shape)
    before = state(network)
    with pytest.raises(RuntimeError, match="broken in the middle"):
        cam(x)
    assert_same_state(network, before)
    with pytest.raises(UsageError, match="target is 5"):
        GradCAM(network.network, example=x.shape)(x, 5)
    assert_same_state(network, before)


def test_runs_inside_inference_mode_and_on_tensors_made_there():
    network = small_resnet()
    expected = GradCAM(network, example=(1, 3, 24, 24))(images(2, 3, 24, 24))
    with torch.inference_mode():
        found = GradCAM(network, example=(1, 3, 24, 24))(images(2, 3, 24, 24))
    assert torch.equal(found.maps, expected.maps)
    assert not found.maps.is_inference()


@pytest.mark.parametrize(
    "name", ["timm/resnet18", "timm/convnext_atto", "torchvision/densenet121", "mobilenet_v1"]
)
def test_finds_the_last_stage_of_other_networks(name):
    network = create_model(name, attention="none" if name == "mobilenet_v1" else "cbam", num_classes=4)
    found = GradCAM(network, example=(1, 3, 64, 96))(torch.randn(2, 3, 64, 96))
    assert found.maps.shape == (2, 2, 3)
    assert found.logits.shape == (2, 4)


def test_signals_have_maps_too():
    network = nn.Sequential(
        nn.Conv1d(2, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 3)
    ).double()
    x = images(2, 2, 9)
    found = GradCAM(network, "1", x.shape)(x, 1)
    features = network[:2](x)
    assert torch.allclose(found.maps, literal(features, network[2:](features), [1, 1]))
    assert enlarge(found.maps, [18]).shape == (2, 18)


@pytest.mark.parametrize(
    ("layer", "expected"), [("layer4", "unknown layer of ResNet 'layer4'. Did you mean"), ("fc", "fc")]
)
def test_a_layer_without_a_map_is_refused(layer, expected):
    with pytest.raises(UsageError, match=expected):
        GradCAM(small_resnet(), layer, (1, 3, 24, 24))


def test_a_network_without_convolution_is_refused():
    with pytest.raises(UsageError, match="Name a layer"):
        GradCAM(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), example=(1, 3, 2, 2))


@pytest.mark.parametrize("layer", [None, "features.1.0", "norm", "permute"])
def test_a_swins_channels_are_the_last_axis(layer):
    torch.manual_seed(0)
    network = SwinTransformer([2, 2], 12, [1, 1], [2, 2], [4, 4], num_classes=5).double().eval()
    x = images(2, 3, 32, 48)
    cam = GradCAM(network, layer, x.shape)
    seen = []
    hook = network.get_submodule(cam.layer).register_forward_hook(lambda m, i, output: seen.append(output))
    logits = network(x)
    hook.remove()
    features = seen[0]
    maps = []
    for i, target in enumerate([4, 1]):
        (gradient,) = torch.autograd.grad(logits[i, target], features, retain_graph=True)
        channels_last = cam.layer != "permute"
        shown, weights = (t[i] if channels_last else t[i].permute(1, 2, 0) for t in (features, gradient))
        maps.append((shown * weights.mean((0, 1))).sum(2).relu().detach())
    found = cam(x, torch.tensor([4, 1]))
    assert found.maps.shape[1:] == ((16, 24) if layer == "features.1.0" else (8, 12))
    torch.testing.assert_close(found.maps, torch.stack(maps), rtol=1e-9, atol=1e-12)
    assert enlarge(found.maps, (32, 48)).shape == (2, 32, 48)


def test_a_vit_has_no_map_unless_a_layer_is_named():
    network, x = VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5).double(), images(1, 3, 32, 32)
    with pytest.raises(
        UsageError, match=r"return sequences of tokens.* name a layer that returns a feature map"
    ):
        GradCAM(network, example=x.shape)
    with pytest.raises(
        UsageError, match=r"'encoder.ln', which returns a sequence .* Name a layer such as conv_proj"
    ):
        GradCAM(network, "encoder.ln", x.shape)
    assert GradCAM(network, "conv_proj", x.shape)(x).maps.shape == (1, 4, 4)
