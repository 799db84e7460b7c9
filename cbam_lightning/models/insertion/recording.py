"""Run a copy of a network and record its data flow."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from cbam_lightning.errors import UsageError
from cbam_lightning.models.insertion.dataflow import Dataflow
from cbam_lightning.models.insertion.example_inputs import Example, example_inputs, explain_failure, moved
from cbam_lightning.models.insertion.planning_copy import planning_copy, trying
from cbam_lightning.models.insertion.unfit_modules import attention_parts, unfit_modules


def record(network: nn.Module, example: Example = None) -> Dataflow:
    """Run a copy of a network once in evaluation mode and record the data flow.

    If the copy cannot run on the meta device, for example because a shape depends on the contents of the
    input, another one runs on the network's own device.

    Args:
        network: It stays as it is, in every respect.
        example: As for ``plan_insertion``.

    Raises:
        UsageError: The network does not run on the example, or has no convolution to derive one from.
    """
    candidates = example_inputs(network, example)
    own = next((p.device for p in network.parameters()), torch.device("cpu"))
    failures: list[UsageError] = []
    for device in (torch.device("meta"), own):
        for inputs in candidates:
            try:
                return _record(network, inputs, device)
            except UsageError:
                raise
            except Exception as error:  # code that reads a tensor's contents raises anything
                failures.append(explain_failure(network, inputs, error))
    raise failures[len(candidates)]


def _record(network: nn.Module, inputs: tuple[Any, ...], device: torch.device) -> Dataflow:
    trial = planning_copy(network, device)
    with trying(device):
        inputs = moved(inputs, device)
        flow = Dataflow(inputs, device)
        flow.headless = getattr(network, "num_classes", None) == 0
        flow.unfit = unfit_modules(trial)
        flow.attention_parts = attention_parts(trial)
        for name, module in trial.named_modules():
            if not isinstance(module, torch.jit.ScriptModule):
                module.register_forward_hook(partial(flow.returned, name), with_kwargs=True)
            if isinstance(module, nn.RNNBase):  # its gates add products
                module.register_forward_pre_hook(partial(flow.pause, 1))
                module.register_forward_hook(partial(flow.pause, -1))
        with flow:
            flow.finished(trial(*inputs))
    return flow
