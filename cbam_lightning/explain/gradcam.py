"""Grad-CAM (Selvaraju, Cogswell, Das, Vedantam, Parikh and Batra, ICCV 2017).

Paper: https://arxiv.org/abs/1610.02391. Captum computes the map (https://captum.ai/api/layer.html#gradcam).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cbam_lightning.errors import UsageError, unknown_name
from cbam_lightning.explain.evaluation_mode import evaluation_mode
from cbam_lightning.models.insertion.dataflow import Dataflow, Value
from cbam_lightning.models.insertion.maps import module_of
from cbam_lightning.models.insertion.named_places import map_of
from cbam_lightning.models.insertion.places import stage_ends
from cbam_lightning.models.insertion.recording import record

PREDICTED = -1  # as a target: the class with the largest logit
# torch's interpolation modes, by the number of dimensions of the positions
_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


class GradCAMOutput(NamedTuple):
    """The maps of a batch, and the logits of the same forward pass.

    Attributes:
        maps: float (N, *positions), at least 0, at the resolution of the layer.
        logits: (N, K).
        targets: int64 (N,), the class that each map explains.
    """

    maps: Tensor
    logits: Tensor
    targets: Tensor


class GradCAM:
    """Shows which positions of a feature map speak for a class.

    The map is the ReLU of the sum over the channels of the feature map, each weighted by the gradient of the
    class's logit, averaged over the positions (equations 1 and 2 of the paper).

    Args:
        network: From (N, C, *positions) to (N, K).
        layer: Name of the module whose output is the feature map, with the channels on any axis. Default: the
            module that returns the last convolved map.
        example: Shape of an input that the network accepts, (N, C, *positions). Default: as for
            ``plan_insertion``.

    Raises:
        UsageError: Captum is not installed; there is no such layer, or it does not return one feature map;
            the network ends in sequences of tokens, as a ViT, and no layer is named; or it does not run on
            the example.
    """

    def __init__(
        self, network: nn.Module, layer: str | None = None, example: Sequence[int] | None = None
    ) -> None:
        self.network = network
        flow = record(network, example)
        self.layer, features = _last_map(network, flow) if layer is None else _named_map(network, flow, layer)
        self._channel_axis = features.channel_axis or 1
        try:
            from captum.attr import LayerGradCam
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] != "captum":
                raise
            raise UsageError(
                "Captum is not installed; Grad-CAM needs it: pip install 'cbam_lightning[explain]'"
            ) from error
        self._layer_cam = LayerGradCam

    def __call__(self, images: Tensor, targets: Tensor | int = PREDICTED) -> GradCAMOutput:
        """Explain a batch with one forward pass, and a backward pass from the logits down to the layer.

        Modes, gradients and hooks of the network are unchanged afterwards, also after an exception.

        Args:
            images: Normalised, (N, C, *positions), N at least 1.
            targets: The class of every image, int64 (N,), or one for all; -1 for the predicted class.

        Raises:
            UsageError: The network has no such class.
        """
        seen: dict[str, Tensor] = {}

        def target_logits(x: Tensor) -> Tensor:
            logits = self.network(x)
            seen["logits"] = logits.detach()
            seen["targets"] = _targets(targets, seen["logits"])
            chosen: Tensor = logits.gather(1, seen["targets"][:, None])[:, 0]  # (N,)
            return chosen

        layer = self.network.get_submodule(self.layer)
        # a trainer evaluates in inference mode, whose tensors autograd refuses
        with torch.inference_mode(False), torch.enable_grad(), evaluation_mode(self.network):
            x = images.clone() if images.is_inference() else images.detach()
            with _channels_first(layer, self._channel_axis) as shown:
                maps = self._layer_cam(target_logits, shown).attribute(x, relu_attributions=True)
        return GradCAMOutput(maps[:, 0].detach(), **seen)


def _last_map(network: nn.Module, flow: Dataflow) -> tuple[str, Value]:
    ends = stage_ends(flow)
    kind = type(network).__name__
    if not ends:
        raise UsageError(f"{kind} has no convolution, and Grad-CAM needs a feature map. Name a layer.")
    last = ends[-1]
    name = str(module_of(flow, last, any_kind=True))
    if len(last.shape) < len(flow.input_shape):
        raise UsageError(
            f"the last layers of {kind} return sequences of tokens, {last.shape} after {name!r}, which are "
            "no map of the image. For Grad-CAM, name a layer that returns a feature map."
        )
    return name, last


def _named_map(network: nn.Module, flow: Dataflow, layer: str) -> tuple[str, Value]:
    names = [name for name, _ in network.named_modules() if name]
    if layer not in names:
        raise unknown_name(kind=f"layer of {type(network).__name__}", given=layer, allowed=names)
    rank = len(flow.input_shape)
    found = map_of(flow, layer)
    if isinstance(found, Value) and len(found.shape) == rank:
        return layer, found
    fault = found if isinstance(found, str) else f"returns a sequence of tokens, {found.shape}"
    maps = [str(module_of(flow, end, any_kind=True)) for end in stage_ends(flow) if len(end.shape) == rank]
    hint = f" Name a layer such as {', '.join(maps)}." if maps else ""
    raise UsageError(f"Grad-CAM cannot explain the layer {layer!r}, which {fault}.{hint}")


@contextmanager
def _channels_first(layer: nn.Module, channel_axis: int) -> Iterator[nn.Module]:
    """Yield a module that returns the output of a layer as Captum takes it: (N, C, *positions)."""
    if channel_axis == 1:
        yield layer
        return
    shown = nn.Identity()

    def through(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        moved: Tensor = shown(output.movedim(channel_axis, 1))
        return moved.movedim(1, channel_axis)

    hook = layer.register_forward_hook(through)
    try:
        yield shown
    finally:
        hook.remove()


def enlarge(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Resize maps to the size of the images, with linear interpolation between the centres of the cells.

    Args:
        maps: (N, *positions), with one to three dimensions of positions.
        size: New size, one number per dimension.
    """
    resized: Tensor = F.interpolate(
        maps[:, None], tuple(size), mode=_MODES[maps.ndim - 1], align_corners=False
    )
    return resized[:, 0]


def _targets(targets: Tensor | int, logits: Tensor) -> Tensor:
    targets = torch.as_tensor(targets, dtype=torch.int64, device=logits.device).expand(len(logits))
    wrong = targets[(targets < PREDICTED) | (targets >= logits.shape[1])]
    if len(wrong):
        raise UsageError(
            f"target is {int(wrong[0])}; allowed: 0 to {logits.shape[1] - 1}, the network's classes, or -1."
        )
    return torch.where(targets == PREDICTED, logits.argmax(1), targets)
