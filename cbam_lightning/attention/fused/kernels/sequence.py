"""What one call computes, and the launches with all that does not depend on its tensors."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import triton
from torch import Tensor

from cbam_lightning.attention.fused.kernels import channel_gate as mlp_passes
from cbam_lightning.attention.fused.kernels import channel_pools, product, spatial_gate
from cbam_lightning.attention.fused.kernels.layout import Sizes, cdiv, kept_sizes, make_plan


class Form(NamedTuple):
    """What is computed.

    Attributes:
        order: An ``Arrangement`` of CBAM.
        maximum: Whether the channel gate pools the maximum, besides the mean.
        factor: A gate is this times a sigmoid.
        norm: Whether a BatchNorm before the gates is part of it.
        shortcut: Whether the addition of a shortcut and a ReLU are.
    """

    order: str
    maximum: bool
    factor: float
    norm: bool
    shortcut: bool

    @property
    def constants(self) -> dict[str, Any]:
        """Constants of the kernels that pass over the map."""
        return {
            "NORM": self.norm,
            "RELU": self.shortcut,
            "CHANNEL": self.order != "spatial",
            "SPATIAL": self.order != "channel",
            "GATED": self.order == "channel-spatial",  # the spatial gate sees the map times the channel gate
            "SPATIAL_FIRST": self.order in ("spatial", "spatial-channel"),
            "MAXIMUM": self.maximum,
            "FACTOR": self.factor,
        }


class Parameters(NamedTuple):
    """Parameters in float32, empty lists for parts that are not there.

    Attributes:
        norm: Weight and bias of the BatchNorm before the gates, (C,).
        mlp: Weights and biases of both layers of the channel gate: (R, C), (R,), (C, R), (C,).
        spatial: Weight of the spatial gate's convolution, (1, 2, *sides), weight and bias of its BatchNorm.
    """

    norm: list[Tensor]
    mlp: list[Tensor]
    spatial: list[Tensor]

    @property
    def norm_pointers(self) -> list[Tensor] | list[None]:
        """The BatchNorm's parameters as arguments of a kernel."""
        return self.norm or [None, None]


class Sequence:
    """The launches for one form and one set of sizes, with all that does not depend on the tensors.

    Attributes:
        form: The form.
        sizes: The sizes.
        plan: Blocks and programs.
        kept_sizes: Sizes of the parts of ``Kept``.
        programs: What ``program.py`` has recorded.
    """

    def __init__(self, form: Form, sizes: Sizes) -> None:
        self.form, self.sizes, self.plan = form, sizes, make_plan(sizes)
        self.programs: dict[Any, Any] = {}
        plan, (kh, kw) = self.plan, sizes.kernel
        window = {"BLOCK": plan.window, "num_warps": max(1, plan.window // 64)}
        hidden = {"BLOCK_N": 16, "BLOCK_R": 16}
        images = max(32, min(64, triton.next_power_of_2(sizes.n)))
        taps = triton.next_power_of_2(max(1, kh * kw))
        rows = max(1, min(plan.window, 4 * plan.window // taps))  # never more than the window of a program
        blocks = {
            channel_pools.sums_kernel: plan.along,
            channel_pools.totals_kernel: {"BLOCK_N": 64, "BLOCK_C": 16},
            channel_pools.statistics_kernel: {"BLOCK_N": 64, "BLOCK_C": 16},
            mlp_passes.hidden_kernel: hidden | {"BLOCK_C": plan.block_c, "num_warps": 8},
            mlp_passes.gate_kernel: hidden | {"BLOCK_C": 64},
            spatial_gate.maps_kernel: plan.across,
            spatial_gate.convolve_kernel: window,
            spatial_gate.spatial_totals_kernel: {"BLOCK": 1024},
            spatial_gate.spatial_gate_kernel: {"BLOCK": 1024},
            product.product_kernel: plan.across,
            spatial_gate.points_kernel: plan.across,
            spatial_gate.spatial_sums_kernel: {"BLOCK": 2048, "num_warps": 8},
            spatial_gate.convolution_gradient_kernel: window | {"TAPS": taps, "ROWS": rows},
            spatial_gate.weight_gradient_kernel: {"BLOCK": 1024},
            channel_pools.row_sums_kernel: plan.along,
            channel_pools.rows_kernel: {"BLOCK_N": 16, "BLOCK_C": 64},
            mlp_passes.hidden_gradient_kernel: hidden | {"BLOCK_C": plan.block_c},
            mlp_passes.pools_gradient_kernel: hidden | {"BLOCK_C": 64},
            mlp_passes.parameters_kernel: {"BLOCK_N": images, "BLOCK_R": 16, "BLOCK_C": 16, "num_warps": 8},
            product.input_gradient_kernel: plan.across,
        }
        known = form.constants | {
            "C": sizes.c,
            "NHWC": sizes.nhwc,
            "VECTOR": 1 if sizes.nhwc else math.gcd(sizes.p, 16),
            "KH": kh,
            "KW": kw,
            "TAP": 2 if sizes.kernel_nhwc else 1,
            "MAP": 1 if sizes.kernel_nhwc else kh * kw,
            "WINDOW": plan.window,
        }
        self._constants = {
            id(kernel): {name: known[name] for name in kernel.arg_names if name in known} | block
            for kernel, block in blocks.items()
        }
        self.kept_sizes = kept_sizes(sizes, form.norm, form.maximum)

    def constants_of(self, kernel: Any) -> dict[str, Any]:
        """Return the constants and the block of a kernel."""
        return self._constants[id(kernel)]

    @property
    def over_map(self) -> tuple[int, ...]:
        """Grid of the passes that write a map."""
        return self.plan.tiles, self.sizes.n, self.plan.channel_tiles

    @property
    def over_positions(self) -> tuple[int, ...]:
        """Grid of the passes that reduce over the positions."""
        return self.sizes.n * self.plan.splits, cdiv(self.sizes.c, self.plan.along["BLOCK_C"])

    def over_images(self, size: int, block: int) -> tuple[int, ...]:
        """Grid of the passes over images and channels or hidden units, of which a program has ``block``."""
        # One program at least, which counts the batch: a process may have no images of it.
        return max(1, cdiv(self.sizes.n, 16)), cdiv(size, block)


@functools.lru_cache(maxsize=1024)
def find_sequence(form: Form, sizes: Sizes) -> Sequence:
    """Return the sequence of a form and sizes, made once."""
    return Sequence(form, sizes)
