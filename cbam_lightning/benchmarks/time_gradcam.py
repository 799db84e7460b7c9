"""The cost of Grad-CAM compared with the two passes that it needs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cbam_lightning.benchmarks.machine import choose_device, set_threads
from cbam_lightning.benchmarks.measurements import Report, collect, milliseconds
from cbam_lightning.benchmarks.options import GradCAMOptions
from cbam_lightning.benchmarks.timing import alternate
from cbam_lightning.explain.gates import record_gates
from cbam_lightning.explain.gradcam import GradCAM
from cbam_lightning.models.factory import create_model

PASSES = "forward, backward to the layer"


def time_gradcam(options: GradCAMOptions) -> list[Report]:
    """Measure Grad-CAM at the last stage, with and without recording all gates, and the bare passes.

    The bare passes are the forward pass of the network, with fresh initial values, and the gradient of the
    largest logits with respect to the feature map.

    Returns:
        A report: time per batch in ms.

    Raises:
        UsageError: A name is unknown, or the network has no feature map.
    """
    set_threads(options.threads)
    device = choose_device(options.device)
    network = create_model(options.network, attention=options.attention).to(device).eval()
    images = torch.randn(options.batch_size, 3, options.size_px, options.size_px, device=device)
    cam = GradCAM(network, example=images.shape)

    def with_gates() -> None:
        with record_gates(network):
            cam(images)

    candidates = {
        PASSES: lambda: bare_passes(network, cam.layer, images),
        "Grad-CAM": lambda: cam(images),
        "Grad-CAM and gates": with_gates,
    }
    group = f"batch {options.batch_size}, {options.size_px} px"
    seconds = alternate(candidates, options.repeats, 1, device, "Grad-CAM")
    title = f"Grad-CAM of {options.network} with attention {options.attention} at {cam.layer}"
    rows = collect(group, seconds, milliseconds)
    return [Report("gradcam", title, "ms", rows, PASSES, setting=options.setting)]


def bare_passes(network: nn.Module, layer: str, images: Tensor) -> Tensor:
    """Return the gradient of the largest logits with respect to a layer's output."""
    outputs: list[Tensor] = []
    module = network.get_submodule(layer)
    with module.register_forward_hook(lambda m, args, output: outputs.append(output)):
        logits: Tensor = network(images)
    return torch.autograd.grad(logits.amax(1).sum(), outputs[0])[0]
