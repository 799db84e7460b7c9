"""The bare passes of the benchmark do what Grad-CAM needs, and no less."""

import torch

from cbam_lightning.benchmarks.time_gradcam import bare_passes
from cbam_lightning.explain.gradcam import GradCAM
from tests.attention.checks import images
from tests.explain.test_gradcam import small_resnet


def test_the_map_follows_from_the_bare_passes():
    network, x = small_resnet().eval(), images(2, 3, 24, 24)
    cam = GradCAM(network, example=x.shape)
    gradient = bare_passes(network, cam.layer, x)
    features = network.forward_features(x)
    expected = (gradient.mean((2, 3), keepdim=True) * features).sum(1).relu()
    torch.testing.assert_close(cam(x).maps, expected.detach())
    assert not any(module._forward_hooks for module in network.modules())
