"""CBAM, the Convolutional Block Attention Module (Woo, Park, Lee and Kweon, ECCV 2018).

Paper: https://arxiv.org/abs/1807.06521. Authors' code: https://github.com/Jongchan/attention-module.

With the pools over the positions (section 3.1) and over the channels (section 3.2) of a feature map F:

    channel gate = sigmoid(MLP(AvgPool(F)) + MLP(MaxPool(F)))
    spatial gate = sigmoid(BatchNorm(convolution 7x7([MaxPool(F), AvgPool(F)])))
    F' = F * channel gate of F,    F'' = F' * spatial gate of F'

As in the authors' code:
    * all channel pools share one MLP with two biases; its outputs are added before the sigmoid;
    * the spatial maps are the maximum over the channels, then the mean; the convolution has no bias;
    * the Lp pool is the root of the sum of squares, not of their mean;
    * convolutions start Kaiming normal (fan-out), linear layers at torch's default and biases at 0; the
      weight of the spatial BatchNorm starts at 0, so the spatial gate starts at a constant 0.5;
    * in a residual block the module comes after the last BatchNorm and before the addition.

Unlike the authors' code:
    * the hidden layer has at least one unit; with C < reduction theirs has none, and its gate is constant;
    * pools are plain reductions: adaptive pooling has no deterministic backward pass on CUDA;
    * under autocast, gates are computed and multiplied in float32;
    * the paper's alternatives are included: the arrangements ``spatial-channel``, ``parallel`` and
      ``spatial``, and the spatial pool ``conv1x1``;
    * feature maps may also have one or three position dimensions, and there is the gate ``identity``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from cbam_lightning.attention import half_precision, pools, positions
from cbam_lightning.attention.gate import Gate, GateName, multiply, run_layer
from cbam_lightning.attention.half_precision import recomputed, run_on_map
from cbam_lightning.attention.implementation import Implementation, check_implementation, fused_form, or_fused
from cbam_lightning.attention.scripting import refuse_scripting
from cbam_lightning.checks import check_choice, check_odd, check_positive
from cbam_lightning.errors import UsageError
from cbam_lightning.seeding import own_stream

Arrangement = Literal["channel-spatial", "spatial-channel", "parallel", "channel", "spatial"]
ChannelPool = Literal["avg", "max", "lp", "lse"]
SpatialPool = Literal["avg+max", "conv1x1"]

_CHANNEL_POOLS: dict[ChannelPool, Callable[..., Tensor]] = {
    "avg": pools.mean,
    "max": pools.maximum,
    "lp": pools.norm,
    "lse": pools.log_sum_exp,
}


class ChannelAttention(Gate):
    """Channel gate: sigmoid of the sum over the pools of MLP(pool(x)).

    The pools share the MLP, C -> max(1, C // reduction) -> C, with biases and a ReLU in between. Inputs may
    have one, two or three position dimensions.

    Args:
        channels: C, the number of channels of the input.
        reduction: The hidden layer has C // reduction units, at least one.
        pools: Pools over the positions, in any combination: ``avg`` (mean), ``max``, ``lp`` (2-norm: the root
            of the sum of squares), ``lse`` (log-sum-exp).
        gate: ``sigmoid``, or ``identity`` for 2 * sigmoid, which starts at exactly 1.
        divisor: The hidden layer has a multiple of so many units, the one nearest to C // reduction.

    Raises:
        UsageError: A number below 1, no pool, an unknown or repeated pool, or an unknown gate.
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        pools: Sequence[ChannelPool] = ("avg", "max"),
        gate: GateName = "sigmoid",
        divisor: int = 1,
    ) -> None:
        super().__init__(gate)
        for option, value in {"channels": channels, "reduction": reduction, "divisor": divisor}.items():
            check_positive(option, value)
        _check_pools(pools)
        self.pools = tuple(pools)
        hidden = max(divisor, (channels // reduction + divisor // 2) // divisor * divisor)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))
        for name, parameter in self.mlp.named_parameters():
            if name.endswith("bias") or (gate == "identity" and name == "2.weight"):
                nn.init.zeros_(parameter)

    def compute_gate(self, x: Tensor) -> Tensor:
        """Compute the gate: (N, C, *positions) to (N, C, 1, …)."""
        logits = run_layer(self.mlp, recomputed(self._pool, x)).sum(0)
        return self.sigmoid(positions.broadcast(logits, x))

    def _pool(self, x: Tensor) -> Tensor:
        """Pool (N, C, *positions) to (pools, N, C)."""
        return torch.stack([_CHANNEL_POOLS[pool](x, positions.axes(x)) for pool in self.pools])

    def extra_repr(self) -> str:
        """Return the options that the printed layers do not show."""
        return f"pools={self.pools}, gate={self.gate!r}"


class SpatialAttention(Gate):
    """Spatial gate: sigmoid of BatchNorm(convolution(pools over the channels)).

    Args:
        channels: C, the number of channels of the input.
        kernel_size: Side of the convolution's kernel in positions, odd. The paper compares 7 and 3.
        spatial_pool: Pool over the channels: ``avg+max`` to (N, 2, *positions), the maximum first, or
            ``conv1x1``, a learned 1x1 convolution without bias to (N, 1, *positions).
        relu: Whether a ReLU follows the BatchNorm; the gate is then at least 0.5.
        gate: ``sigmoid``, or ``identity`` for 2 * sigmoid, which starts at exactly 1.
        dims: Number of position dimensions: 1 for (N, C, L), 2 for (N, C, H, W), 3 for (N, C, D, H, W).

    Raises:
        UsageError: A number below 1, an even kernel, an unknown choice, or ``identity`` with the ReLU. In
            ``forward`` and ``gate_map``: an input with another number of dimensions.
    """

    kind = "spatial"

    def __init__(
        self,
        channels: int,
        kernel_size: int = 7,
        spatial_pool: SpatialPool = "avg+max",
        relu: bool = False,
        gate: GateName = "sigmoid",
        dims: positions.Dims = 2,
    ) -> None:
        positions.check_dims(dims)
        super().__init__(gate, dims)
        check_positive("channels", channels)
        _check_spatial(kernel_size, spatial_pool, relu, gate)
        self.spatial_pool = spatial_pool
        if spatial_pool == "conv1x1":
            self.reduce = _conv(half_precision.CONVOLUTIONS[dims], channels, 1)
        maps = 1 if spatial_pool == "conv1x1" else 2
        self.conv = _conv(positions.CONVOLUTIONS[dims], maps, kernel_size)
        self.bn = positions.BATCH_NORMS[dims](1, eps=1e-5, momentum=0.01)
        # relu'(0) = 0: before a ReLU, a weight of 0 would never receive a gradient.
        nn.init.constant_(self.bn.weight, 1.0 if relu else 0.0)
        self.relu = nn.ReLU() if relu else nn.Identity()

    def compute_gate(self, x: Tensor) -> Tensor:
        """Compute the gate: (N, C, *positions) to (N, 1, *positions)."""
        if self.spatial_pool == "conv1x1":
            pooled = run_on_map(self.reduce, x)  # (N, 1, *positions)
        else:
            pooled = recomputed(_maximum_and_mean, x)
        return self.sigmoid(self.relu(run_layer(self.bn, run_layer(self.conv, pooled))))

    def extra_repr(self) -> str:
        """Return the options that the printed layers do not show."""
        return f"spatial_pool={self.spatial_pool!r}, gate={self.gate!r}"


class CBAM(nn.Module):
    """CBAM: y = x * sigmoid(MLP(mean) + MLP(max)), then y * sigmoid(BatchNorm(conv 7x7([max, mean] over C))).

    The channel gate pools over the positions, the spatial gate over the channels. They may also be used in
    the other order, in parallel, or alone.

    Args:
        channels: C, the number of channels of the input.
        reduction: The channel MLP's hidden layer has C // reduction units, at least one.
        pools: Pools of the channel gate: any of ``avg``, ``max``, ``lp`` and ``lse``.
        kernel_size: Side of the spatial gate's kernel in positions, odd.
        arrangement: Order of the gates. ``channel`` or ``spatial`` is that gate alone, without the parameters
            of the other. ``parallel`` is x * channel gate of x * spatial gate of x; the paper gives no
            formula for it, this one is our choice.
        spatial_pool: Pool of the spatial gate: ``avg+max``, or the learned ``conv1x1``.
        spatial_relu: Whether a ReLU follows the spatial BatchNorm.
        gate: ``sigmoid``, or ``identity`` for gates of exactly 1 at initialisation.
        dims: Number of position dimensions: 1 for (N, C, L), 2 for (N, C, H, W), 3 for (N, C, D, H, W). The
            arrangement ``channel`` takes any of them.
        implementation: ``fused``: fewer passes over memory, in loops that are compiled at the first call,
            on GPUs in Triton kernels; no second derivative. ``reference``: the plain operations. ``auto``:
            chosen at every call, see ``implementation.runs_fused`` and ``runs_kernels``. All compute the
            same function. The reference always runs for the pools ``lp`` and ``lse``, ``max`` alone and
            ``conv1x1``; for subclasses and for gates or layers that were replaced; and in exported graphs,
            transforms of ``torch.func`` and forward-mode AD.

    Raises:
        UsageError: An argument outside these choices, or ``identity`` with the spatial ReLU. In ``forward``
            and ``gate_map``: an input that is no tensor of floating-point numbers, or has another number of
            dimensions.
    """

    channel: ChannelAttention
    spatial: SpatialAttention
    __prepare_scriptable__ = refuse_scripting

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        pools: Sequence[ChannelPool] = ("avg", "max"),
        kernel_size: int = 7,
        arrangement: Arrangement = "channel-spatial",
        spatial_pool: SpatialPool = "avg+max",
        spatial_relu: bool = False,
        gate: GateName = "sigmoid",
        dims: positions.Dims = 2,
        implementation: Implementation = "auto",
    ) -> None:
        super().__init__()
        check_choice("arrangement", arrangement, get_args(Arrangement))
        check_implementation(implementation)
        positions.check_dims(dims)
        self.arrangement = arrangement
        self.implementation = implementation
        with own_stream():  # the initial values of one gate do not depend on the other
            if arrangement != "spatial":
                self.channel = ChannelAttention(channels, reduction, pools, gate)
        with own_stream():
            if arrangement != "channel":
                self.spatial = SpatialAttention(channels, kernel_size, spatial_pool, spatial_relu, gate, dims)

    @or_fused
    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` times its gates, in the dtype of ``x``: (N, C, *positions) to the same."""
        if self.arrangement == "parallel":
            return multiply(multiply(x, self.channel.gate_map(x)), self.spatial.gate_map(x))
        for gate in self.gates:
            x = gate(x)
        return x

    @property
    def gates(self) -> list[ChannelAttention | SpatialAttention]:
        """The gates in the order in which they are applied."""
        order = "channel-spatial" if self.arrangement == "parallel" else self.arrangement
        return [getattr(self, kind) for kind in order.split("-")]

    def gate_maps(self, x: Tensor) -> dict[str, Tensor]:
        """Return the gates by name: channel (N, C, 1, …) and spatial (N, 1, *positions)."""
        maps: dict[str, Tensor] = {}
        for gate in self.gates:
            maps[gate.kind] = gate.gate_map(x)
            if self.arrangement != "parallel":
                x = multiply(x, maps[gate.kind])
        return maps

    def gate_map(self, x: Tensor) -> Tensor:
        """Return the product of both gates, (N, C, *positions), or a single gate in its own shape."""
        return functools.reduce(torch.mul, self.gate_maps(x).values())

    def extra_repr(self) -> str:
        """Return the options that the printed gates do not show."""
        implementation = self.implementation if fused_form(self) else "reference"
        return f"arrangement={self.arrangement!r}, implementation={implementation!r}"


def _conv(kind: type[nn.Conv1d | nn.Conv2d | nn.Conv3d], in_channels: int, kernel_size: int) -> nn.Module:
    conv = kind(in_channels, 1, kernel_size, padding=kernel_size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _maximum_and_mean(x: Tensor) -> Tensor:
    """Pool (N, C, *positions) to (N, 2, *positions)."""
    return torch.cat([pools.maximum(x, 1, keepdim=True), pools.mean(x, 1, keepdim=True)], dim=1)


def _check_pools(pools: Sequence[str]) -> None:
    allowed = ", ".join(_CHANNEL_POOLS)
    is_list = isinstance(pools, Sequence) and not isinstance(pools, str)
    if not is_list or not pools or len({str(pool) for pool in pools}) < len(pools):
        raise UsageError(f"pools is {pools!r}; give a list of one or more of {allowed}, each at most once.")
    for pool in pools:
        check_choice("pool", pool, tuple(_CHANNEL_POOLS))


def _check_spatial(kernel_size: int, spatial_pool: str, relu: bool, gate: str) -> None:
    check_choice("spatial_pool", spatial_pool, get_args(SpatialPool))
    check_odd("kernel_size", kernel_size)
    if not isinstance(relu, bool):
        raise UsageError(f"the spatial ReLU is {relu!r}; give true or false.")
    if relu and gate == "identity":
        raise UsageError(
            "gate 'identity' needs logits of exactly 0 at initialisation, where the spatial ReLU passes no "
            "gradient, so the spatial gate would never learn. Turn the ReLU off, or use gate 'sigmoid'."
        )
