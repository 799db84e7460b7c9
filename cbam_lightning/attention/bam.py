"""BAM, the Bottleneck Attention Module (Park, Woo, Lee and Kweon, BMVC 2018).

Paper: https://arxiv.org/abs/1807.06514. Authors' code: https://github.com/Jongchan/attention-module.

As in the authors' code:
    * the gate is 1 + sigmoid(channel(x) * spatial(x)), with biases in every layer. Equation 2 of the paper
      adds the two branches instead; that is the variant ``paper``;
    * convolutions start Kaiming normal (fan-out) as in their networks, linear weights at torch's default, and
      all biases at 0.

Unlike the authors' code:
    * hidden layers have at least one unit; with C < reduction theirs have none, and their gate is constant;
    * the mean is over all positions, also of maps that are not square;
    * under autocast, gates are computed and multiplied in float32;
    * there are the variant ``paper``, the gate ``identity``, and one and three position dimensions.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal, get_args

from torch import Tensor, nn

from cbam_lightning.attention import half_precision, pools, positions
from cbam_lightning.attention.batch_norm import check_values
from cbam_lightning.attention.full_gate import FullGate
from cbam_lightning.attention.gate import GateName, run_layer
from cbam_lightning.attention.half_precision import run_on_map
from cbam_lightning.checks import check_choice, check_positive

Variant = Literal["official", "paper"]


class BAM(FullGate):
    """BAM: x * (1 + sigmoid(MLP(mean over positions) * convolutions(x))), a gate for each element.

    The MLP, the channel branch, is C -> C // reduction -> C. The convolutions, the spatial branch, are a 1x1
    convolution C -> C // reduction, two dilated 3x3 convolutions and a 1x1 convolution -> 1. BatchNorm and
    ReLU follow each hidden layer (section 3 of the paper).

    Args:
        channels: C, the number of channels of the input.
        reduction: The hidden layers have C // reduction units, at least one.
        dilation: Of the 3x3 convolutions, in positions; the paper uses 4.
        variant: How the branches are combined: ``official`` multiplies them as the authors' code does,
            ``paper`` adds them as the paper does.
        dims: Number of position dimensions: 1 for (N, C, L), 2 for (N, C, H, W), 3 for (N, C, D, H, W). The
            kernels have size 3, 3x3 or 3x3x3.
        gate: ``sigmoid`` for 1 + sigmoid, in (1, 2), as published, or ``identity`` for 2 * sigmoid, in
            (0, 2), which starts at exactly 1.

    Raises:
        UsageError: A number below 1, or an unknown choice. In training: a batch of one, which the channel
            branch's BatchNorm cannot normalise; with SyncBatchNorm, the batch over all processes counts.
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        dilation: int = 4,
        variant: Variant = "official",
        dims: positions.Dims = 2,
        gate: GateName = "sigmoid",
    ) -> None:
        positions.check_dims(dims)
        super().__init__(gate, dims)
        for option, value in {"channels": channels, "reduction": reduction, "dilation": dilation}.items():
            check_positive(option, value)
        check_choice("variant", variant, get_args(Variant))
        self.variant = variant
        hidden = max(1, channels // reduction)
        self.channel = _channel_branch(channels, hidden)
        self.spatial = _spatial_branch(channels, hidden, dilation, dims)
        for module in self.modules():
            if isinstance(module, positions.CONVOLUTIONS[dims]):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if isinstance(module, (nn.Linear, positions.CONVOLUTIONS[dims])) and module.bias is not None:
                nn.init.zeros_(module.bias)
        if gate == "identity":
            # One factor of 0 makes the product 0; with two of them, neither would receive a gradient.
            last = [self.channel[-1]] if variant == "official" else [self.channel[-1], self.spatial[-1]]
            for parameter in nn.ModuleList(last).parameters():
                nn.init.zeros_(parameter)

    def parts(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the results of the channel branch, (N, C, 1, …), and the spatial branch, (N, 1, …)."""
        check_values(self, self.channel[1], x.shape[0], x)
        channel = run_layer(self.channel, pools.mean(x, positions.axes(x)))
        return positions.broadcast(channel, x), run_on_map(self.spatial, x)

    def combine(self, x: Tensor, *parts: Tensor) -> Tensor:
        """Combine the branches to the gate, in (1, 2), or (0, 2) for ``identity``: (N, C, *positions)."""
        channel, spatial = parts
        gate = self.sigmoid(channel * spatial if self.variant == "official" else channel + spatial)
        return gate if self.gate == "identity" else 1 + gate

    def extra_repr(self) -> str:
        """Return the options that the printed layers do not show."""
        return f"variant={self.variant!r}, gate={self.gate!r}"


def _channel_branch(channels: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            fc1=nn.Linear(channels, hidden),
            bn=nn.BatchNorm1d(hidden),
            relu=nn.ReLU(),
            fc2=nn.Linear(hidden, channels),
        )
    )


def _spatial_branch(channels: int, hidden: int, dilation: int, dims: int) -> nn.Sequential:
    convolution, batch_norm = positions.CONVOLUTIONS[dims], positions.BATCH_NORMS[dims]
    on_map = half_precision.CONVOLUTIONS[dims]
    return nn.Sequential(
        OrderedDict(
            reduce=on_map(channels, hidden, kernel_size=1),
            reduce_bn=batch_norm(hidden),
            reduce_relu=nn.ReLU(),
            conv1=convolution(hidden, hidden, kernel_size=3, padding=dilation, dilation=dilation),
            bn1=batch_norm(hidden),
            relu1=nn.ReLU(),
            conv2=convolution(hidden, hidden, kernel_size=3, padding=dilation, dilation=dilation),
            bn2=batch_norm(hidden),
            relu2=nn.ReLU(),
            final=convolution(hidden, 1, kernel_size=1),
        )
    )
