"""What Grad-CAM costs beside the two passes that it needs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cbam_lightning.benchmarks import Report, Row, alternate, choose_device
from cbam_lightning.checks import check_positive
from cbam_lightning.explain.gates import record_gates
from cbam_lightning.explain.gradcam import GradCAM
from cbam_lightning.models.factory import create_model

PASSES = "forward, backward to the layer"


def benchmark_gradcam(
    network: str = "resnet50",
    attention: str = "cbam",
    batch_size: int = 8,
    size_px: int = 224,
    repeats: int = 7,
    device: str = "cpu",
) -> list[Report]:
    """Measure Grad-CAM at the last stage, alone and with all gates recorded, beside the bare passes.

    The bare passes are the network's forward pass and the gradient of the largest logits with respect to the
    feature map.

    Args:
        network: Name for ``create_model``, with fresh initial values.
        attention: Name for ``create_attention``.
        batch_size: Random images in the batch.
        size_px: Their height and width.
        repeats: Measurements of each candidate.
        device: Where to measure, such as ``cpu`` or ``cuda``.

    Returns:
        Times of a batch in ms.

    Raises:
        UsageError: An unknown name, a number below 1, or a network without a feature map.
    """
    numbers = {"batch_size": batch_size, "size_px": size_px, "repeats": repeats}
    for option, value in numbers.items():
        check_positive(option, value)
    place = choose_device(device)
    built = create_model(network, attention=attention).to(place).eval()
    images = torch.randn(batch_size, 3, size_px, size_px, device=place)
    cam = GradCAM(built, example=images.shape)

    def with_gates() -> None:
        with record_gates(built):
            cam(images)

    candidates = {
        PASSES: lambda: bare_passes(built, cam.layer, images),
        "Grad-CAM": lambda: cam(images),
        "Grad-CAM and gates": with_gates,
    }
    group = f"batch {batch_size}, {size_px} px"
    seconds = alternate(candidates, repeats, 1, place, "Grad-CAM")
    rows = [Row(group, name, [1e3 * value for value in values]) for name, values in seconds.items()]
    title = f"Grad-CAM of {network} with attention {attention} at {cam.layer}"
    setting = {"repeats": repeats, "dtype": "float32", "device": device}
    return [Report("gradcam", title, "ms", rows, PASSES, setting=setting)]


def bare_passes(network: nn.Module, layer: str, images: Tensor) -> Tensor:
    """Return the gradient of the largest logits with respect to a layer's output, without a map."""
    kept: list[Tensor] = []
    handle = network.get_submodule(layer).register_forward_hook(lambda m, args, output: kept.append(output))
    try:
        logits: Tensor = network(images)
    finally:
        handle.remove()
    return torch.autograd.grad(logits.amax(1).sum(), kept[0])[0]
