"""CBAM, the Convolutional Block Attention Module (Woo, Park, Lee and Kweon, ECCV 2018).

Paper: https://arxiv.org/abs/1807.06521. Authors' code: https://github.com/Jongchan/attention-module.

Equal to the authors' code:
    * one MLP with two biases is shared by all channel pools; the results are added before the sigmoid;
    * the spatial map is the maximum over the channels first, then their mean; its convolution has no bias;
    * the Lp pool is the 2-norm of the sum, not of the mean;
    * convolutions start Kaiming normal (fan-out), linear layers at torch's default, biases at 0, and the
      weight of the spatial BatchNorm at 0, so that the spatial gate starts at a constant 0.5;
    * in a residual block the module follows the last BatchNorm, before the addition.

Different from the authors' code:
    * the hidden layer has at least one unit; with C < reduction theirs has none, and its gate is constant;
    * pools are plain reductions: adaptive pooling has no deterministic backward pass on CUDA;
    * gates are computed in float32 under autocast, and multiplied in float32;
    * the arrangements ``spatial-channel``, ``parallel`` and ``spatial`` and the spatial pool ``conv1x1``,
      which the paper compares, are here; one- and three-dimensional maps and the gate ``identity`` are ours.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from cbam_lightning.attention import positions
from cbam_lightning.attention.fused.attend import attend
from cbam_lightning.attention.fused.convolution import convolve
from cbam_lightning.attention.fused.excitation import Excitation
from cbam_lightning.attention.gate import Gate, GateName, has_hooks, multiply, run_layer
from cbam_lightning.attention.implementation import Implementation, check_implementation, runs_fused
from cbam_lightning.checks import check_choice, check_odd, check_positive
from cbam_lightning.errors import UsageError
from cbam_lightning.seeding import own_stream

Arrangement = Literal["channel-spatial", "spatial-channel", "parallel", "channel", "spatial"]
SpatialPool = Literal["avg+max", "conv1x1"]

# (N, C, *positions) -> (N, C), given ``dim``, the axes of the positions
_CHANNEL_POOLS: dict[str, Callable[..., Tensor]] = {
    "avg": torch.mean,
    "max": torch.amax,
    "lp": torch.linalg.vector_norm,
    "lse": torch.logsumexp,
}


class ChannelAttention(Gate):
    """Which channels matter: sigmoid of the sum over the pools of MLP(pool(x)).

    The MLP is C -> max(1, C // reduction) -> C with biases and a ReLU between, shared by the pools. Positions
    may have one, two or three dimensions.

    Args:
        channels: C, the number of channels of the input.
        reduction: How many times fewer units the hidden layer has.
        pools: How the positions are reduced, in any combination: ``avg`` (mean), ``max``, ``lp`` (2-norm: the
            root of the sum of squares), ``lse`` (log-sum-exp).
        gate: ``sigmoid``, or ``identity`` for 2 * sigmoid that starts at exactly 1.

    Raises:
        UsageError: A number below 1, an unknown or repeated pool, none at all, or an unknown gate.
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        pools: Sequence[str] = ("avg", "max"),
        gate: GateName = "sigmoid",
    ) -> None:
        super().__init__(gate)
        check_positive("channels", channels)
        check_positive("reduction", reduction)
        _check_pools(pools)
        self.pools = tuple(pools)
        hidden = max(1, channels // reduction)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))
        for name, parameter in self.mlp.named_parameters():
            if name.endswith("bias") or (gate == "identity" and name == "2.weight"):
                nn.init.zeros_(parameter)

    def logits(self, x: Tensor) -> Tensor:
        """Add the MLP's answers to every pool: (N, C, *positions) to (N, C, 1, …)."""
        pooled = [_CHANNEL_POOLS[pool](x, dim=positions.axes(x)) for pool in self.pools]  # each (N, C)
        return positions.broadcast(run_layer(self.mlp, torch.stack(pooled)).sum(0), x)

    @property
    def has_fused_form(self) -> bool:
        """Whether the pools are ``avg``, or ``avg`` and ``max``, and nobody changed or watches the MLP."""
        plain = [type(layer) for layer in self.mlp] == [nn.Linear, nn.ReLU, nn.Linear]
        pools = "avg" in self.pools and {"avg", "max"}.issuperset(self.pools)
        return plain and pools and not any(map(has_hooks, (self, self.mlp, *self.mlp)))

    @property
    def excitation(self) -> Excitation:
        """The MLP as ``attend`` takes it."""
        first, _, second = cast("tuple[nn.Linear, nn.ReLU, nn.Linear]", self.mlp)
        return Excitation(first.weight, first.bias, second.weight, second.bias)

    def extra_repr(self) -> str:
        """Name the options that the printed layers do not show."""
        return f"pools={self.pools}, gate={self.gate!r}"


class SpatialAttention(Gate):
    """Which positions matter: sigmoid of BatchNorm(convolution(channels reduced to one or two maps)).

    Args:
        channels: C, the number of channels of the input.
        kernel_size: Side of the square convolution in positions, odd; the paper has 7 and 3.
        spatial_pool: How C is reduced: ``avg+max`` to (N, 2, *positions), the maximum first; ``conv1x1`` by a
            learned 1x1 convolution without bias to (N, 1, *positions).
        relu: Whether a ReLU follows the BatchNorm; the gate is then at least 0.5.
        gate: ``sigmoid``, or ``identity`` for 2 * sigmoid that starts at exactly 1.
        dims: How many dimensions the positions have: 1 for (N, C, L), 2 for (N, C, H, W), 3 for
            (N, C, D, H, W).

    Raises:
        UsageError: A number below 1, an even kernel, an unknown choice, or ``identity`` with the ReLU; in
            ``forward`` and ``gate_map``, an input with another number of dimensions.
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
        super().__init__(gate, dims)
        check_positive("channels", channels)
        _check_spatial(kernel_size, spatial_pool, relu, gate)
        self.spatial_pool = spatial_pool
        if spatial_pool == "conv1x1":
            self.reduce = _conv(channels, 1, kernel_size=1, dims=dims)
        self.conv = _conv(1 if spatial_pool == "conv1x1" else 2, 1, kernel_size, dims)
        self.bn = positions.BATCH_NORMS[dims](1, eps=1e-5, momentum=0.01)
        # relu'(0) = 0: behind a ReLU a weight of 0 would never receive a gradient.
        nn.init.constant_(self.bn.weight, 1.0 if relu else 0.0)
        self.relu = nn.ReLU() if relu else nn.Identity()

    def logits(self, x: Tensor) -> Tensor:
        """Convolve the reduced channels: (N, C, *positions) to (N, 1, *positions)."""
        if self.spatial_pool == "conv1x1":
            pooled = run_layer(self.reduce, x)  # (N, 1, *positions)
        else:
            pooled = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], dim=1)  # (N, 2, …)
        return self._normalise(run_layer(self.conv, pooled))

    @property
    def has_fused_form(self) -> bool:
        """Whether the pool is not learned, and nobody changed the convolution or watches this module."""
        conv = cast("nn.Conv2d", self.conv)
        plain = type(conv) in positions.CONVOLUTIONS.values() and set(conv.dilation) == {1}
        return plain and self.spatial_pool == "avg+max" and not has_hooks(self)

    def fused_logits(self, maps: Tensor) -> Tensor:
        """Return the logits for maximum and mean over the channels, as ``attend`` asks for them."""
        return self._normalise(convolve(self.conv, maps))

    def _normalise(self, convolved: Tensor) -> Tensor:
        normalised: Tensor = self.relu(run_layer(self.bn, convolved))
        return normalised

    def extra_repr(self) -> str:
        """Name the options that the printed layers do not show."""
        return f"spatial_pool={self.spatial_pool!r}, gate={self.gate!r}"


class CBAM(nn.Module):
    """Channel attention and spatial attention, one after the other or side by side.

    Args:
        channels: C, the number of channels of the input.
        reduction: How many times fewer units than C the channel half's hidden layer has, at least one unit.
        pools: How the channel half reduces the positions: any of ``avg``, ``max``, ``lp`` and ``lse``.
        kernel_size: Side of the spatial half's convolution in positions, odd.
        arrangement: Which half comes first; ``channel`` or ``spatial`` for that half alone, without the
            parameters of the other. ``parallel`` is x * channel gate of x * spatial gate of x: the paper
            writes no formula down, this one is our choice.
        spatial_pool: How the spatial half reduces C: ``avg+max``, or ``conv1x1``, which is learned.
        spatial_relu: Whether a ReLU follows the spatial BatchNorm.
        gate: ``sigmoid``, or ``identity`` for gates of exactly 1 at initialisation.
        dims: How many dimensions the positions have: 1 for (N, C, L), 2 for (N, C, H, W), 3 for
            (N, C, D, H, W). The channel half alone takes any.
        implementation: ``fused``: fewer passes over memory, compiled at the first call, without a second
            derivative; ``reference``: the plain operations; ``auto`` chooses at every call, see
            ``implementation.runs_fused``. Both compute the same. The pools ``lp`` and ``lse``, a lone ``max``
            and ``conv1x1`` have the reference only.

    Raises:
        UsageError: An argument outside these choices, or ``identity`` with the spatial ReLU; in ``forward``
            and ``gate_map``, an input with another number of dimensions.
    """

    channel: ChannelAttention
    spatial: SpatialAttention

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        pools: Sequence[str] = ("avg", "max"),
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
        with own_stream():  # a half starts from the same values, whatever the other one is
            if arrangement != "spatial":
                self.channel = ChannelAttention(channels, reduction, pools, gate)
        with own_stream():
            if arrangement != "channel":
                self.spatial = SpatialAttention(channels, kernel_size, spatial_pool, spatial_relu, gate, dims)

    def gate_maps(self, x: Tensor) -> dict[str, Tensor]:
        """Return the gates of the halves by name: channel (N, C, 1, …), spatial (N, 1, *positions)."""
        maps: dict[str, Tensor] = {}
        for half in self._halves_in_order():
            maps[half.kind] = half.gate_map(x)
            if self.arrangement != "parallel":
                x = multiply(x, maps[half.kind])
        return maps

    def gate_map(self, x: Tensor) -> Tensor:
        """Return the product of both gates, (N, C, *positions), or the one gate of a half alone, as it is."""
        return functools.reduce(torch.mul, self.gate_maps(x).values())

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` times its gates, in the dtype of ``x``: (N, C, *positions) to the same."""
        if self.has_fused_form and runs_fused(self, self.implementation, x):
            return self._forward_fused(x)
        if self.arrangement == "parallel":
            return multiply(multiply(x, self.channel.gate_map(x)), self.spatial.gate_map(x))
        for half in self._halves_in_order():
            x = half(x)
        return x

    def extra_repr(self) -> str:
        """Name the options that the printed halves do not show."""
        available = self.implementation if self.has_fused_form else "reference"
        return f"arrangement={self.arrangement!r}, implementation={available!r}"

    @property
    def has_fused_form(self) -> bool:
        """Whether the fused implementation knows the pools of every half."""
        return all(half.has_fused_form for half in self._halves_in_order())

    def _forward_fused(self, x: Tensor) -> Tensor:
        halves = self._halves_in_order()
        for half in halves:
            positions.check_feature_map(half, x, half.dims)
        channel, spatial = getattr(self, "channel", None), getattr(self, "spatial", None)
        return attend(
            x,
            self.arrangement,
            channel and channel.excitation,
            spatial and spatial.fused_logits,
            maximum=channel is not None and "max" in channel.pools,
            factor=halves[0].factor,
        )

    def _halves_in_order(self) -> list[ChannelAttention | SpatialAttention]:
        order = "channel-spatial" if self.arrangement == "parallel" else self.arrangement
        return [getattr(self, half) for half in order.split("-")]


def _conv(in_channels: int, out_channels: int, kernel_size: int, dims: int) -> nn.Module:
    conv = positions.CONVOLUTIONS[dims](
        in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False
    )
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _check_pools(pools: Sequence[str]) -> None:
    allowed = ", ".join(_CHANNEL_POOLS)
    plain = isinstance(pools, Sequence) and not isinstance(pools, str)
    if not plain or not pools or len({str(pool) for pool in pools}) < len(pools):
        message = f"pools is {pools!r}; give a list of one or more of {allowed}, each at most once."
        raise UsageError(message)
    for pool in pools:
        check_choice("pool", pool, tuple(_CHANNEL_POOLS))


def _check_spatial(kernel_size: int, spatial_pool: str, relu: bool, gate: str) -> None:
    check_choice("spatial_pool", spatial_pool, get_args(SpatialPool))
    check_odd("kernel_size", kernel_size)
    if relu and gate == "identity":
        message = (
            "gate 'identity' needs logits of exactly 0 at initialisation, where the spatial ReLU passes no "
            "gradient, so the spatial half would never learn. Turn the ReLU off, or use gate 'sigmoid'."
        )
        raise UsageError(message)
