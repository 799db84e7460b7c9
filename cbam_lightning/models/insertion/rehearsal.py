"""Try attention at its places before the network is changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from cbam_lightning.models.insertion.attended import attend
from cbam_lightning.models.insertion.dataflow import Dataflow
from cbam_lightning.models.insertion.planning_copy import planning_copy, trying

UNFIT = "it runs over its own modules, or not its class's forward"


def unfit_hosts(network: nn.Module, flow: Dataflow, names: Sequence[str]) -> list[str]:
    """Return the modules after which attention would not run exactly once in a forward pass.

    A module that runs over its own children, as DenseNet's blocks do, would take the attention for one of
    them. So each of them runs once more, in a copy with attention that changes nothing.

    Args:
        network: It stays as it is.
        flow: Of the network.
        names: Of modules after which attention is wanted.
    """
    return [name for name in names if name in flow.arguments and not _calls_once(network, flow, name)]


def _calls_once(network: nn.Module, flow: Dataflow, name: str) -> bool:
    host = planning_copy(network.get_submodule(name), flow.device)
    probe = _Probe()
    attend(host, probe)
    args, kwargs = flow.arguments[name]
    with trying(flow.device):
        try:
            host(*args, **kwargs)
        except Exception:  # such as of a loop over children that expects layers
            return False
    return probe.calls == 1


class _Probe(nn.Module):
    """Returns its input, and counts the calls."""

    calls = 0

    def forward(self, x: Tensor, *others: Any) -> Tensor:
        self.calls += 1
        return x
