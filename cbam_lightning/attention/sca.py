"""Spatial and channel-wise attention of SCA-CNN (Chen, Zhang, Xiao, Nie, Shao, Liu and Chua, CVPR 2017).

Paper: https://arxiv.org/abs/1611.05594. Authors' code: https://github.com/zjuchenlong/sca-cnn.cvpr17.

With v the means of the channels of the feature map V, and h a context, in captioning the decoder's state:

    channel-wise  b = tanh((W_c (outer) v + b_c) (+) W_hc h),  beta = softmax over channels (W'_i b + b'_i)
    spatial       a = tanh((W_s V + b_s) (+) W_hs h),          alpha = softmax over positions (W_i a + b_i)

As in the authors' code:
    * each softmax is multiplied by the number of its entries, so its mean is 1. In the paper's equations its
      sum is 1, which scales V by about 1 / C and 1 / positions; that is the gate ``softmax``;
    * the second attention sees the map that the first one scaled;
    * weights start normal with a standard deviation of 0.01, biases at 0.

Unlike the authors' code:
    * the hidden width k follows the channels: C // 4 by default, which is theirs, 512, for the last stage of
      ResNet-152 with its 2048 channels; inside that stage, they have k = C = 512;
    * their square weights start orthogonal;
    * without a context, h is 0: the attention depends on the map alone;
    * there are the order ``spatial-channel`` of the paper, and the gate ``identity``.

A constant added to all logits changes no softmax: b_i and b'_i have gradients of 0. They are here because
they are in the paper's equations and in its parameters.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from cbam_lightning.attention import half_precision, pools, positions
from cbam_lightning.attention.gate import multiply, run_layer, wide_dtype, without_autocast
from cbam_lightning.attention.half_precision import run_on_map
from cbam_lightning.attention.scripting import refuse_scripting
from cbam_lightning.checks import check_choice, check_positive
from cbam_lightning.errors import UsageError

Order = Literal["channel-spatial", "spatial-channel"]
GateName = Literal["scaled", "softmax", "identity"]

_WEIGHT_STD = 0.01  # norm_weight in the authors' utils/util.py


class SCA(nn.Module):
    """SCA: y = x * C * softmax over channels of f(means), then y * L * softmax over the L positions of g(y).

    The channel-wise attention f is the same function for every channel, 1 -> k -> 1 on its mean; the spatial
    one, g, is the same function for every position, C -> k -> 1. Inputs may have one, two or three position
    dimensions. With a single channel or position, the softmax over it is constant. Where one entry has all of
    it, its factor is the number of entries, which may exceed the range of float16.

    Args:
        channels: C, the number of channels of the input.
        reduction: Each attention has k = C // reduction hidden units, at least one.
        order: Which attention comes first. The paper reports ``channel-spatial`` as the better one.
        context_features: D, the width of the context that ``forward`` may be given. None: it takes none.
            The networks of this package give none, and the weights of the context learn nothing there.
        gate: ``scaled`` for the softmax times the number of its entries, so with mean 1, as in the authors'
            code; ``softmax`` for the softmax itself, with sum 1, as in the paper; ``identity`` for ``scaled``
            that starts at exactly 1.

    Raises:
        UsageError: A number below 1, or an unknown choice. In ``forward`` and ``gate_maps``: an input that is
            not (N, C, *positions), or a context that is not (N, D).
    """

    __prepare_scriptable__ = refuse_scripting

    def __init__(
        self,
        channels: int,
        reduction: int = 4,
        order: Order = "channel-spatial",
        context_features: int | None = None,
        gate: GateName = "scaled",
    ) -> None:
        super().__init__()
        check_positive("channels", channels)
        check_positive("reduction", reduction)
        if context_features is not None:
            check_positive("context_features", context_features)
        check_choice("order", order, get_args(Order))
        check_choice("gate", gate, get_args(GateName))
        self.order, self.context_features, self.gate = order, context_features, gate
        hidden = max(1, channels // reduction)
        self.channel = _Logits(1, hidden, context_features)
        self.spatial = _Logits(channels, hidden, context_features)
        if gate == "identity":
            for logits in (self.channel, self.spatial):
                nn.init.zeros_(logits.score.weight)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return ``x`` times both attentions, in the dtype of ``x``: (N, C, *positions) to the same.

        Args:
            x: The feature map.
            context: Features of each image that the attention depends on, (N, D). None: only on the map.
        """
        return self._run(x, context)[0]

    def gate_maps(self, x: Tensor, context: Tensor | None = None) -> dict[str, Tensor]:
        """Return what is multiplied, in its order: channel (N, C, 1, …) and spatial (N, 1, *positions)."""
        return self._run(x, context)[1]

    def _run(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        positions.check_feature_map(self, x)
        self._check_context(x, context)
        maps: dict[str, Tensor] = {}
        with without_autocast(x.device.type):
            context = self._wide_context(x, context)
            for kind in self.order.split("-"):
                maps[kind] = self._attend(kind, x, context)
                x = multiply(x, maps[kind])
        return x, maps

    def _wide_context(self, x: Tensor, context: Tensor | None) -> Tensor | None:
        if context is not None:
            return context.to(wide_dtype(x))
        if self.context_features is None:
            return None
        # As if it were left out, but DistributedDataParallel wants a gradient of every parameter.
        return x.new_zeros(x.shape[0], self.context_features, dtype=wide_dtype(x))

    def _attend(self, kind: str, x: Tensor, context: Tensor | None) -> Tensor:
        if kind == "channel":
            means = pools.mean(x, positions.axes(x))
            return positions.broadcast(self._weigh(self.channel(means[:, None], context)), x)
        weights = self._weigh(self.spatial(x.flatten(2), context))
        return weights.reshape(x.shape[0], 1, *x.shape[2:])

    def _weigh(self, logits: Tensor) -> Tensor:
        """Turn logits (N, entries) into the factors of the entries."""
        if self.gate == "softmax":
            return logits.softmax(1)
        # Not the softmax times entries: entries * (1 / entries) is not always 1.
        powers = torch.exp(logits - logits.detach().amax(1, keepdim=True))
        return powers.shape[1] * powers / powers.sum(1, keepdim=True)

    def extra_repr(self) -> str:
        """Return the options that the printed layers do not show."""
        return f"order={self.order!r}, context_features={self.context_features}, gate={self.gate!r}"

    def _check_context(self, x: Tensor, context: Tensor | None) -> None:
        """Raise a ``UsageError`` unless this is None or (N, D) for the N images of ``x``."""
        if context is None:
            return
        if not isinstance(context, Tensor) or not context.is_floating_point():
            given = context.dtype if isinstance(context, Tensor) else type(context).__name__
            raise UsageError(
                f"SCA takes a context that is a tensor of floating-point numbers, but was given {given}. "
                "Convert it first, for example with torch.as_tensor(context, dtype=torch.float32)."
            )
        shape, width = tuple(context.shape), self.context_features
        if width is None:
            raise UsageError(
                f"SCA was made without context_features, but was given a context {shape}. Make it with the "
                "width of the context as context_features, or leave the context out."
            )
        if shape != (x.shape[0], width):
            raise UsageError(
                f"SCA was made with context_features={width} and takes a context ({x.shape[0]}, {width}) for "
                f"a map {tuple(x.shape)}, but was given {shape}. Give each image one row of {width} numbers."
            )


class _Logits(nn.Module):
    """The same function for every entry: score(tanh(hidden(entry) + context))."""

    def __init__(self, features: int, hidden: int, context_features: int | None) -> None:
        super().__init__()
        self.hidden = half_precision.Conv1d(features, hidden, kernel_size=1)
        if context_features is not None:
            self.context = nn.Linear(context_features, hidden, bias=False)
        self.score = nn.Conv1d(hidden, 1, kernel_size=1)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=_WEIGHT_STD)

    def forward(self, entries: Tensor, context: Tensor | None) -> Tensor:
        """Map entries (N, features, M) and a context (N, D) to logits (N, M), at least float32."""
        hidden = run_on_map(self.hidden, entries)
        if context is not None:
            hidden = hidden + run_layer(self.context, context)[:, :, None]
        return run_layer(self.score, hidden.tanh())[:, 0]
