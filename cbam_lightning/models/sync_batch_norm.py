"""BatchNorm over the images of all processes, on the CPU as well as on GPUs.

In data-parallel training every process has a part of the batch, and plain BatchNorm normalises each part
separately. With small parts this changes the training. ``torch.nn.SyncBatchNorm`` normalises over the whole
batch, but only on GPUs.

With x̂ = (x - mean) rstd, y = weight x̂ + bias, and means over images and positions in all processes:

    dx = weight rstd (dy - mean of dy - x̂ mean of dy x̂)

(https://arxiv.org/abs/1502.03167, section 3). The gradients of weight and bias cover the process's own
images, as for any other parameter: DistributedDataParallel averages them.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from cbam_lightning.attention.fused.originals import register_synchronised
from cbam_lightning.attention.gate import wide_dtype
from cbam_lightning.errors import UsageError
from cbam_lightning.models.insertion.attended import change_class, plain_class

_Statistics = tuple[Tensor, Tensor, int]  # mean and variance, (C,), and the number of values per channel
_PLAIN = "_plain_class"  # attribute in which a synchronised module keeps its original class


@register_synchronised
class SyncBatchNorm(_BatchNorm):
    """BatchNorm that takes its training statistics over the images of all processes.

    The processes may have different numbers of images, even none, but all of them have to call the module,
    and either all or none run the backward pass. With one process, without a process group, and in evaluation
    mode it is plain BatchNorm. Like ``torch.nn.SyncBatchNorm``, it has no second derivative.

    Raises:
        ValueError: In ``forward``: a one-dimensional input, or a single value per channel over all processes.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name in torch)
        """Normalise (N, C) or (N, C, *positions), to the same shape."""
        if not self.training or _count_processes() == 1:
            return super().forward(input)
        self._check_input_dim(input)
        output: Tensor = self._normalise_over_all(input)
        return output

    # Inside DistributedDataParallel, torch.compile fails on this method (torch 2.14).
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _normalise_over_all(self, x: Tensor) -> Tensor:
        statistics = mean, variance, count = _statistics(x)
        self._track(mean, variance * (count / (count - 1)))
        output: Tensor = _Normalise.apply(x, self.weight, self.bias, statistics, self.eps)
        return output

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002
        if input.ndim < 2:
            raise ValueError(f"expected at least 2D input (got {input.ndim}D input)")

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        """Update the buffers as plain BatchNorm does."""
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        counter = cast(Tensor, self.num_batches_tracked)
        counter.add_(1)
        momentum = 1 / float(counter) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), momentum)


class _TimmActivation(_BatchNorm):
    """Dropout and activation after the normalisation, as in timm's ``BatchNormAct2d``.

    https://github.com/huggingface/pytorch-image-models/blob/main/timm/layers/norm_act.py
    """

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        output: Tensor = self.act(self.drop(super().forward(input)))
        return output


class _SyncBatchNormAct(_TimmActivation, SyncBatchNorm):
    pass


class _GpuSyncBatchNormAct(_TimmActivation, nn.SyncBatchNorm):
    pass


def synchronise_batch_norm(network: nn.Module, device: torch.device | None = None) -> nn.Module:
    """Make every BatchNorm of a network take its statistics over all processes.

    On a GPU they become ``torch.nn.SyncBatchNorm``, on the CPU the class of this file. The modules stay the
    same objects and only change their class, so references, hooks, parameters, buffers and names stay valid.
    Modules that are already synchronised do not change.

    Args:
        network: Changed in place.
        device: Where the network will run. Default: the device of each BatchNorm's parameters.

    Returns:
        The network.

    Raises:
        UsageError: A BatchNorm other than timm's ``BatchNormAct2d`` overrides ``forward``.
    """
    found = [m for m in network.modules() if isinstance(m, _BatchNorm)]
    plain = [m for m in found if not isinstance(m, (SyncBatchNorm, nn.SyncBatchNorm))]
    targets = [_synchronised_class(module, device or _device_of(module)) for module in plain]
    for module, target in zip(plain, targets, strict=True):
        setattr(module, _PLAIN, plain_class(type(module)))
        if issubclass(target, nn.SyncBatchNorm):
            vars(module)["process_group"] = None  # the default one
        change_class(module, target)
    return network


def revert_batch_norm(network: nn.Module) -> nn.Module:
    """Undo ``synchronise_batch_norm``.

    Args:
        network: Changed in place.

    Returns:
        The network.
    """
    for module in network.modules():
        if isinstance(module, _BatchNorm) and hasattr(module, _PLAIN):
            change_class(module, getattr(module, _PLAIN))
            delattr(module, _PLAIN)
            vars(module).pop("process_group", None)
    return network


def _synchronised_class(module: _BatchNorm, device: torch.device) -> type[_BatchNorm]:
    kind = plain_class(type(module))
    on_cpu = device.type == "cpu"
    if kind.forward is _BatchNorm.forward:
        return SyncBatchNorm if on_cpu else nn.SyncBatchNorm
    if kind.__name__ == "BatchNormAct2d" and kind.__module__.startswith("timm."):
        return _SyncBatchNormAct if on_cpu else _GpuSyncBatchNormAct
    raise UsageError(
        f"{kind.__name__} is a BatchNorm that overrides forward, so it cannot be synchronised between "
        "processes. Train with sync_batchnorm=False, or use another network."
    )


def _device_of(module: nn.Module) -> torch.device:
    tensors = (*module.parameters(recurse=False), *module.buffers(recurse=False))
    return tensors[0].device if tensors else torch.device("cpu")


class _Normalise(Function):
    """Map x to weight (x - mean) rstd + bias, with the gradient through mean and variance."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, statistics: _Statistics, eps: float
    ) -> Tensor:
        mean, variance, ctx.count = statistics
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt())
        scale, shift = (None if values is None else values.to(mean.dtype) for values in (weight, bias))
        return F.batch_norm(x, mean, variance, scale, shift, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, rstd = ctx.saved_tensors
        normalised = (x - _per_channel(mean, x)) * _per_channel(rstd, x)
        sums = torch.stack([_sum(grad), _sum(grad * normalised)])  # (2, C)
        d_bias, d_weight = (
            sums[i].to(weight.dtype) if ctx.needs_input_grad[2 - i] else None for i in range(2)
        )
        if not ctx.needs_input_grad[0]:
            return None, d_weight, d_bias, None, None
        over_all = _per_channel((_sum_over_processes(sums) / ctx.count).to(mean.dtype), x)
        scale = rstd if weight is None else rstd * weight
        d_x = torch.addcmul(grad - over_all[0], normalised, -over_all[1]).mul_(_per_channel(scale, x))
        return d_x.to(x.dtype), d_weight, d_bias, None, None


@torch.no_grad()
def _statistics(x: Tensor) -> _Statistics:
    """Return mean and biased variance, (C,), and the number of values per channel, over all processes."""
    here = _sum(x)
    total = _sum_over_processes(torch.cat([here, here.new_tensor([x.numel() // x.shape[1]])]))
    count = round(float(total[-1]))
    if count < 2:
        raise ValueError(f"expected more than 1 value per channel in training, got {count} in all processes")
    mean = total[:-1] / count
    variance = _sum_over_processes(_sum((x - _per_channel(mean.to(wide_dtype(x)), x)).square())) / count
    return mean.to(wide_dtype(x)), variance.to(wide_dtype(x)), count


def _sum(x: Tensor) -> Tensor:
    """Sum over images and positions: (N, C, *positions) to (C,), float64."""
    return x.sum((0, *range(2, x.ndim)), dtype=wide_dtype(x)).double()


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    """Reshape (…, C) to broadcast over the channels of x."""
    return values.view(*values.shape[:-1], 1, -1, *[1] * (x.ndim - 2))


def _count_processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _sum_over_processes(values: Tensor) -> Tensor:
    """Return the sum of the values that all processes pass."""
    total = values.clone()
    dist.all_reduce(total)
    return total
