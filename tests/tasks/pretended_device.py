"""A CUDA device that is not there: tensors without values, and a record of what would wait for them."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager

import torch
from pytorch_lightning import Callback
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("cuda", 0)
# operations that read values, or whose size depends on them
_READ = {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "bincount"}


class Arrival:
    """An event on the device, which is done when one asks for the second time."""

    def __init__(self):
        self.questions = 0

    def record(self, stream):
        pass

    def query(self):
        self.questions += 1
        return self.questions > 1

    def synchronize(self):
        pass


class Waits(TorchDispatchMode):
    """Records every operation for which the processor would wait for the device."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name, kwargs = function._schema.name.removeprefix("aten::"), kwargs or {}
        if _on_device(args) and (name in _READ or (name.startswith("index") and _has_mask(args))):
            self.found.append(name)
        if name == "_local_scalar_dense":
            return 0.5
        result = function(*args, **kwargs)
        if name in ("_to_copy", "copy_"):
            source = args[1] if name == "copy_" else args[0]
            asynchronous = kwargs.get("non_blocking", bool(args[2:3] and args[2]))
            if source.device.type != result.device.type and not asynchronous:
                self.found.append(f"{name} from {source.device.type} to {result.device.type}")
        return result


def _on_device(args):
    return any(isinstance(x, torch.Tensor) and x.is_cuda for x in args)


def _has_mask(args):
    lists = [x for x in args if isinstance(x, (list, tuple))]
    return any(isinstance(x, torch.Tensor) and x.dtype == torch.bool for each in lists for x in each)


@contextmanager
def pretended(monkeypatch):
    """Compute without values where a tensor is on the device; yields the record of what would wait."""
    monkeypatch.setattr(torch.cuda, "Event", Arrival)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: None)
    monkeypatch.setattr(torch.Tensor, "__deepcopy__", lambda tensor, memo: tensor.detach().clone())
    with FakeTensorMode(allow_non_fake_inputs=True), Waits() as waits:
        yield waits


class Enough(BaseException):
    """Enough steps are done."""


class PretendedCUDA(Callback):
    """Trains some steps on the device, and notes what waited in each; the trainer's first callback.

    Attributes:
        waits: What would wait, by step.
    """

    def __init__(self, monkeypatch, steps, averages=()):
        self.steps, self.averages, self.waits = steps, averages, []
        self._monkeypatch, self._modes = monkeypatch, ExitStack()

    def on_train_start(self, trainer, pl_module):
        trainer.strategy._root_device = DEVICE
        trainer._teardown = lambda: None
        self._record = self._modes.enter_context(pretended(self._monkeypatch))
        for module in (pl_module, *(each._average_model for each in self.averages)):
            _move(module)
        trainer.strategy.setup_optimizers(trainer)

        def backward(loss):  # torch asks the driver for the streams of the device
            for parameter in pl_module.parameters():
                parameter.grad = torch.zeros_like(parameter)

        pl_module.backward = backward

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == self.steps:
            raise Enough

    def on_train_epoch_start(self, *arguments):
        self._record.found.clear()

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        # in the middle of a step: the hooks between two batches belong to one of them as a whole
        self.waits.append(list(self._record.found))
        self._record.found.clear()

    def on_exception(self, trainer, pl_module, exception):
        self._modes.close()


def _move(model):
    """Replace all values, as tensors without values cannot be moved in place."""
    for module in model.modules():
        for name, value in module._parameters.items():
            if value is not None:
                module._parameters[name] = nn.Parameter(_there(value), value.requires_grad)
        for name, value in module._buffers.items():
            module._buffers[name] = None if value is None else _there(value)
        for name in getattr(module, "_defaults", {}):  # of a metric
            setattr(module, name, _there(getattr(module, name)))
        module._device = DEVICE


def _there(value):
    return torch.empty(value.shape, dtype=value.dtype, device=DEVICE)
