"""Modules and feature maps for the kernels, some of them drawn by Hypothesis."""

import torch
from hypothesis import strategies as st
from torch import nn

from tests.attention.checks import randomised
from tests.attention.fused.comparing import ARRANGEMENTS, Block, create

KINDS = ("smooth", "smooth", "rounded", "equal channels", "equal")
LAYOUTS = ("contiguous", "channels last", "every other")
SHAPES = [(2, 5, 4), (1, 7, 3), (3, 2, 2), (2, 1, 9), (4, 3, 3), (8, 1, 1), (17, 2, 1), (1, 11, 13)]


def create_end(arrangement, channels, bn=None, **options):
    """Create the end of a residual block with any arrangement, in float32."""
    return randomised(Block(create(arrangement, channels, **options), channels, bn)).float()


def feature_maps(module, shape, kind="smooth", layout="contiguous", dtype=torch.float32, offset=0.0):
    """Make one map, or two for the end of a block.

    Args:
        module: Changed for ``equal channels``, so that channels that are equal stay so.
        shape: (N, C, *positions).
        kind: All but ``smooth`` have equal values, so that several positions or channels are the maximum.
        layout: ``every other`` lies in neither of both layouts.
        dtype: Of the maps.
        offset: Added to the first map.
    """
    generator = torch.Generator().manual_seed(sum(shape))
    maps = [torch.randn(shape, generator=generator) for _ in range(1 + isinstance(module, Block))]
    x = maps[0]
    if kind != "smooth":
        x.mul_(2).round_().div_(2)
    if kind == "equal":
        x.fill_(float(x.flatten()[0]))
    if kind == "equal channels":
        _make_equal(module, x)
    x += offset
    return [_in_layout(x.to(dtype), layout).requires_grad_() for x in maps]


def _make_equal(module, x):
    """Let the second half of the channels repeat the first."""
    half = x.shape[1] // 2
    x[:, half : 2 * half] = x[:, :half]
    for name, value in module.state_dict().items():
        if name.endswith("mlp.2.weight"):
            value.zero_()  # the order of the sums of a matrix product may depend on the channel
        elif value.shape[:1] == x.shape[1:2] and "mlp.0" not in name:
            value[half : 2 * half] = value[:half]


def _in_layout(x, layout):
    if layout == "channels last":
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    return torch.stack([x, x], -1)[..., 0] if layout == "every other" else x


@st.composite
def ends(draw):
    """Draw the end of a residual block and arguments of ``feature_maps``."""
    arrangement = draw(st.sampled_from(["channel-spatial", "channel-spatial", "channel", "se"]))
    shape, options = _draw_shape_and_options(draw, arrangement)
    bn = nn.BatchNorm2d(
        shape[1],
        eps=draw(st.sampled_from([1e-5, 1e-2])),
        momentum=draw(st.sampled_from([0.1, None, 1.0, 0.0])),
        track_running_stats=draw(st.sampled_from([True, True, False])),
    )
    end = create_end(arrangement, shape[1], bn, **options).train(draw(st.booleans()))
    bn.train(draw(st.booleans()))
    with torch.no_grad():  # weights of both signs, and exactly 0
        bn.weight *= torch.tensor(draw(st.permutations([1, -1, 0]))).repeat(shape[1])[: shape[1]]
        maps = _draw_maps(draw, shape, st.sampled_from([0.0, 0.0, 100.0, -1000.0]))
        if bn.track_running_stats:  # else gates saturate in evaluation, and the errors of any arithmetic grow
            bn.running_mean += maps.get("offset", 0)
    return end, maps


@st.composite
def modules(draw):
    """Draw a CBAM of any arrangement or an SE, and arguments of ``feature_maps``."""
    arrangement = draw(st.sampled_from([*ARRANGEMENTS, "se"]))
    shape, options = _draw_shape_and_options(draw, arrangement)
    if arrangement != "se" and draw(st.integers(0, 3)) == 0:
        options["dims"], shape = 1, (*shape[:2], shape[2] * shape[3])
    module = create(arrangement, shape[1], **options).float().train(draw(st.booleans()))
    return module, _draw_maps(draw, shape, st.just(0.0))


def _draw_shape_and_options(draw, arrangement):
    images, *sides = draw(st.sampled_from(SHAPES))
    options = {
        "reduction": draw(st.sampled_from([2, 1, 16])),
        "gate": draw(st.sampled_from(["sigmoid", "identity"])),
    }
    if arrangement != "se":
        options["pools"] = draw(st.sampled_from([("avg", "max"), ("avg", "max"), ("avg",), ("max", "avg")]))
        options["kernel_size"] = draw(st.sampled_from([3, 1, 3, 7]))
    return (images, draw(st.sampled_from([8, 9, 24, 40])), *sides), options


def _draw_maps(draw, shape, offsets):
    drawn = {
        "shape": shape,
        "kind": draw(st.sampled_from(KINDS)),
        "layout": draw(st.sampled_from(LAYOUTS)),
        "dtype": draw(st.sampled_from([torch.float32, torch.float32, torch.bfloat16, torch.float16])),
    }
    if drawn["kind"] == "smooth" and drawn["dtype"] == torch.float32:
        drawn["offset"] = draw(offsets)
    return drawn
