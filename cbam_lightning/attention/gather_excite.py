"""Gather-excite, GE (Hu, Shen, Albanie, Sun and Vedaldi, NeurIPS 2018).

Paper: https://arxiv.org/abs/1810.12348. Authors' code: https://github.com/hujie-frank/GENet.

Gather summarises, in every channel, the neighbourhood of each position in a cell of a coarser map; excite
turns cells into gates, which positions share. The forms of the paper:

    GE-θ⁻    gather="mean"                           the mean; no parameters
    GE-θ     gather="conv"                           depthwise convolutions with BatchNorm
    GE-θ⁺    gather="conv", excite="relu+mlp"        and an MLP over the channels, C -> C // reduction -> C

As in the authors' code, which has the global forms alone:
    * the global convolution has a kernel of the size of the map and no bias; in GE-θ⁺ a ReLU comes between
      its BatchNorm and the MLP;
    * convolutions start Kaiming normal (fan-in), the MLP from a normal distribution of standard deviation
      0.01, and its biases at 0.

As in timm, for an extent of e positions
(https://github.com/huggingface/pytorch-image-models/blob/main/timm/layers/gather_excite.py):
    * the mean is over windows of 2e - 1 positions, e apart, and leaves out what is beyond the map;
    * the convolutions are log2(e) 3x3 ones of stride 2, with a ReLU between them;
    * a map of H x W has ceil(H / e) x ceil(W / e) cells, also where e does not divide it, and a position
      takes its cell by torch's nearest interpolation: cell floor(h * cells / H), up to its rounding;
    * the MLP may follow any gather, and have no ReLU before it, ``excite="mlp"``.

Unlike the authors' code:
    * the hidden layer has at least one unit, and BatchNorm torch's default momentum of 0.1;
    * under autocast, gates are computed and multiplied in float32;
    * there is the gate ``identity``, and feature maps may also have one or three position dimensions.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Literal, get_args

from torch import Tensor, nn
from torch.nn import functional as F

from cbam_lightning.attention import half_precision, pools, positions
from cbam_lightning.attention.batch_norm import check_values
from cbam_lightning.attention.full_gate import FullGate
from cbam_lightning.attention.gate import GateName, run_layer
from cbam_lightning.attention.half_precision import recomputed, run_on_map
from cbam_lightning.checks import check_choice, check_positive, is_whole
from cbam_lightning.errors import UsageError

Gather = Literal["mean", "conv"]
Excite = Literal["none", "mlp", "relu+mlp"]


class GatherExcite(FullGate):
    """Gather-excite, a channel gate of the whole map or of cells of it: x * sigmoid(excite(gather(x))).

    Gathering summarises what is around a cell, by its mean or by convolutions.

    Args:
        channels: C, the number of channels of the input.
        extent: e, the distance of two cells in positions, at least 2, and with ``conv`` a power of 2. 0: one
            cell for the whole map, so the gate is one of channels. A map smaller than e has one cell, too.
        gather: ``mean``, without parameters, or ``conv``, a depthwise convolution.
        excite: ``none``, or an ``mlp`` over the channels, in the published form behind a ReLU, ``relu+mlp``.
            The global mean with ``mlp`` is squeeze-and-excitation.
        reduction: The MLP's hidden layer has C // reduction units, at least one.
        size: Positions of the map, (H, W) for example, or one number for all sides: the kernel of the global
            ``conv``, which alone needs it.
        dims: Number of position dimensions: 1 for (N, C, L), 2 for (N, C, H, W), 3 for (N, C, D, H, W).
        gate: ``sigmoid``, or ``identity`` for 2 * sigmoid, which starts at exactly 1 and needs parameters.

    Raises:
        UsageError: A number that is not allowed, an unknown choice, ``identity`` without parameters, or
            ``size`` where it is not needed. In ``forward`` and ``gate_map``: a map of another ``size``; in
            training: a batch of one with a single cell, which the BatchNorm cannot normalise.
    """

    def __init__(
        self,
        channels: int,
        extent: int = 0,
        gather: Gather = "mean",
        excite: Excite = "none",
        reduction: int = 16,
        size: int | Sequence[int] | None = None,
        dims: positions.Dims = 2,
        gate: GateName = "sigmoid",
    ) -> None:
        positions.check_dims(dims)
        super().__init__(gate, dims)
        for option, value in {"channels": channels, "reduction": reduction}.items():
            check_positive(option, value)
        check_choice("gather", gather, get_args(Gather))
        check_choice("excite", excite, get_args(Excite))
        _check_extent(extent, gather)
        self.extent = extent
        self.kind = "both" if extent else "channel"
        self.size = _kernel(size, dims, needed=gather == "conv" and extent == 0)
        self.gather = _convolutions(channels, extent, self.size, dims) if gather == "conv" else None
        hidden = max(1, channels // reduction)
        self.mlp = _mlp(channels, hidden, excite, dims) if excite != "none" else None
        if gate == "identity":
            self._start_at_one()

    def parts(self, x: Tensor) -> tuple[Tensor]:
        """Compute the gates of the cells: (N, C, *positions) to (N, C, *cells)."""
        if self.gather is not None:
            self._check_map(x, self.gather[-1])
            cells = run_on_map(self.gather, x)
        elif self.extent:
            cells = recomputed(functools.partial(pools.mean_of_windows, extent=self.extent), x)
        else:
            cells = pools.mean(x, positions.axes(x), keepdim=True)
        return (self.sigmoid(cells if self.mlp is None else run_layer(self.mlp, cells)),)

    def combine(self, x: Tensor, *parts: Tensor) -> Tensor:
        """Give each position its cell: (N, C, *cells) to (N, C, *positions), or the only cell as it is."""
        (cells,) = parts
        # Of the modes of interpolation, torch lists those that mix cells as nondeterministic on CUDA:
        # https://docs.pytorch.org/docs/stable/generated/torch.use_deterministic_algorithms.html
        return F.interpolate(cells, size=x.shape[2:], mode="nearest") if self.extent else cells

    def extra_repr(self) -> str:
        """Return the options that the printed layers do not show."""
        return f"extent={self.extent}, dims={self.dims}, gate={self.gate!r}"

    def _check_map(self, x: Tensor, bn: nn.Module) -> None:
        if self.size and x.shape[2:] != self.size:
            raise UsageError(
                f"GatherExcite has a kernel for maps of {_times(self.size)} positions, but was given "
                f"{_times(x.shape[2:])}. Make it with the size of the map, or with an extent, such as 8, "
                "whose kernels fit every map."
            )
        values = x.shape[0]
        if self.extent:
            for length in x.shape[2:]:
                values *= (length + self.extent - 1) // self.extent
        check_values(self, bn, values, x)

    def _start_at_one(self) -> None:
        layers = self.mlp or self.gather
        if layers is None:
            raise UsageError(
                "GatherExcite with gather 'mean' and excite 'none' has no parameters: it can neither start "
                "as the identity nor learn. Use gate='sigmoid', or give it parameters: gather='conv' with "
                "an extent, or excite='mlp'."
            )
        # Of a convolution or a BatchNorm; the bias of the second is 0 from the start.
        for parameter in layers[-1].parameters():
            nn.init.zeros_(parameter)


def _convolutions(channels: int, extent: int, size: tuple[int, ...], dims: int) -> nn.Sequential:
    """Build the layers of the gather ``conv``: the global one if ``size`` is not empty."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    number = 1 if size else extent.bit_length() - 1
    shape: dict[str, Any] = {"kernel_size": size} if size else {"kernel_size": 3, "stride": 2, "padding": 1}
    for i in range(1, number + 1):
        kinds = half_precision.CONVOLUTIONS if i == 1 else positions.CONVOLUTIONS
        layers[f"conv{i}"] = conv = kinds[dims](channels, channels, groups=channels, bias=False, **shape)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        layers[f"bn{i}"] = positions.BATCH_NORMS[dims](channels)
        if i < number:
            layers[f"relu{i}"] = nn.ReLU()
    return nn.Sequential(layers)


def _mlp(channels: int, hidden: int, excite: str, dims: int) -> nn.Sequential:
    convolution = positions.CONVOLUTIONS[dims]
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if excite == "relu+mlp":
        layers["relu0"] = nn.ReLU()
    layers["fc1"] = convolution(channels, hidden, kernel_size=1)
    layers["relu1"] = nn.ReLU()
    layers["fc2"] = convolution(hidden, channels, kernel_size=1)
    for name, parameter in nn.ModuleDict(layers).named_parameters():
        if name.endswith("weight"):
            nn.init.normal_(parameter, std=0.01)
        else:
            nn.init.zeros_(parameter)
    return nn.Sequential(layers)


def _check_extent(extent: int, gather: str) -> None:
    if not is_whole(extent) or extent < 0 or extent == 1:
        raise UsageError(f"extent is {extent!r}; give a whole number of at least 2, or 0 for the whole map.")
    if gather == "conv" and extent.bit_count() > 1:
        raise UsageError(
            f"extent is {extent}, but convolutions of stride 2 need a power of 2: give 2, 4, 8, … , or use "
            "gather 'mean'."
        )


def _kernel(size: Any, dims: int, *, needed: bool) -> tuple[int, ...]:
    """Return the sides of the global kernel, or nothing if there is none."""
    if not needed:
        if size is not None:
            raise UsageError(
                f"size is {size!r}, but only gather 'conv' with extent 0 has a kernel of the map's size. "
                "Leave size out."
            )
        return ()
    sides = (size,) * dims if is_whole(size) else size
    if not isinstance(sides, Sequence) or isinstance(sides, str) or len(sides) != dims:
        raise UsageError(
            f"size is {size!r}; with extent 0, gather 'conv' needs the map's number of positions in each of "
            f"its {dims} dimensions, as in size={[8] * dims}. Or give an extent of 2, 4, 8, …"
        )
    for side in sides:
        check_positive("size", side)
    return tuple(sides)


def _times(lengths: Sequence[int]) -> str:
    return " x ".join(map(str, lengths))
