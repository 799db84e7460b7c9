"""The launches of a forward and a backward pass, recorded on tensors without memory."""

import contextlib
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from cbam_lightning.attention.fused.kernels import program
from cbam_lightning.attention.fused.kernels.backward import run_backward
from cbam_lightning.attention.fused.kernels.forward import run_forward
from cbam_lightning.attention.fused.kernels.layout import sizes_of
from cbam_lightning.attention.fused.kernels.sequence import Form, Parameters, find_sequence
from cbam_lightning.attention.fused.norm import Norm


class Launch(NamedTuple):
    """A kernel with all that it was started with."""

    kernel: Any
    grid: tuple[int, ...]
    args: tuple[Any, ...]
    constants: dict[str, Any]

    @property
    def name(self):
        return self.kernel.__name__

    def arguments(self):
        return dict(zip(self.kernel.arg_names, self.args, strict=False)) | self.constants

    def maps(self, elements):
        """Return the names of the arguments that have so many elements."""
        arguments = self.arguments().items()
        return [name for name, x in arguments if isinstance(x, torch.Tensor) and x.numel() == elements]


class Call(NamedTuple):
    """What is recorded: the form, the shape, and how it runs."""

    order: str
    shape: tuple[int, ...]
    end: bool = False
    maximum: bool = True
    dtype: torch.dtype = torch.bfloat16
    channels_last: bool = True
    mode: str = "track"
    synchronised: bool = False

    @property
    def elements(self):
        return torch.Size(self.shape).numel()


def record(call, monkeypatch, watch=contextlib.nullcontext):
    """Return the launches of the forward and of the backward pass, each of which runs under ``watch()``."""
    started = []
    monkeypatch.setattr(program, "launch", lambda *args, **constants: _keep(started, *args, **constants))
    monkeypatch.setattr(dist, "all_reduce", lambda _: None)
    with torch.device("meta"):
        forward = _run(call, started, watch)
    return started[:forward], started[forward:]


def _keep(started, kernel, grid, *args, **constants):
    started.append(Launch(kernel, grid, args, constants))


def _run(call, started, watch):
    layout = torch.channels_last if call.channels_last else torch.contiguous_format
    x, shortcut = (torch.empty(call.shape, dtype=call.dtype).to(memory_format=layout) for _ in range(2))
    parameters = _parameters(call)
    form = Form(call.order, call.maximum, 1.0, call.end, call.end)
    plan = find_sequence(form, sizes_of(x, parameters.mlp, parameters.spatial))
    norm = _norm(call, call.shape[1]) if call.end else Norm([])
    norms = norm, _norm(call, 1)
    with watch():
        out, kept = run_forward(plan, x, shortcut if call.end else None, parameters, *norms)
    forward, d_out = len(started), torch.empty_like(out)
    with watch():
        run_backward(plan, d_out, x, out if call.end else None, kept, parameters, *norms)
    return forward


def _parameters(call):
    channels = call.shape[1]
    hidden = max(1, channels // 16)
    mlp = [torch.empty(size) for size in ((hidden, channels), (hidden,), (channels, hidden), (channels,))]
    spatial = [torch.empty(size) for size in ((1, 2, 7, 7), (1,), (1,))]
    return Parameters(
        [torch.empty(channels), torch.empty(channels)] if call.end else [],
        [] if call.order == "spatial" else mlp,
        [] if call.order == "channel" else spatial,
    )


def _norm(call, channels):
    statistics = [torch.empty(channels), torch.empty(channels), torch.empty((), dtype=torch.int64)]
    return Norm([] if call.mode == "batch" else statistics, call.mode, 1e-5, 0.1, call.synchronised)
