"""Division of any convolutional network into stages, one for each resolution, and the classifier."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from cbam_lightning.models.insertion.maps import module_of
from cbam_lightning.models.insertion.places import stage_ends
from cbam_lightning.models.insertion.recording import record
from cbam_lightning.weights.last_layer import classifier_name


@dataclass(frozen=True)
class Stage:
    """Modules of a network that hold parameters or buffers of their own.

    Attributes:
        name: ``stage1``, ``stage2``, … in the order of the forward pass; ``head`` for the classifier.
        modules: By their names in the network. Nested modules are listed separately.
    """

    name: str
    modules: dict[str, nn.Module]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that the modules hold directly."""
        return [p for module in self.modules.values() for p in module.parameters(recurse=False)]

    def __str__(self) -> str:
        first, *_, last = [*self.modules, next(reversed(self.modules))]
        return f"{self.name} ({first if first == last else f'{first} to {last}'})"


def find_stages(network: nn.Module, example: Sequence[int] | None = None) -> list[Stage]:
    """Divide a network into one stage for each resolution of its feature maps, and its classifier.

    A stage ends where ``plan_insertion`` with ``where="stage"`` would put attention. Modules between the last
    feature map and the classifier belong to the last stage.

    Args:
        network: It is not changed.
        example: Shape of an input, (N, C, *positions). Default: that of ``plan_insertion``.

    Returns:
        The stages from the images to the classifier. Each parameter of the network is in exactly one.

    Raises:
        UsageError: The network does not run on the example.
    """
    flow = record(network, example)
    reached = list(flow.outputs)
    ends = [reached.index(str(module_of(flow, value, any_kind=True))) for value in stage_ends(flow)]
    position = {name: index for index, name in enumerate(reached)}
    head = classifier_name(network)
    stages: dict[str, dict[str, nn.Module]] = {f"stage{i + 1}": {} for i in range(max(len(ends), 1))}
    stages["head"] = {}
    index = 0
    for name, module in network.named_modules():
        # a module that is never called, because its parent uses its values, stays with the one before it
        index = position.get(name, index)
        if not module._parameters and not module._buffers:
            continue
        is_head = name == head or name.startswith(f"{head}.")
        stage = "head" if is_head else f"stage{bisect_left(ends[:-1], index) + 1}"
        stages[stage][name] = module
    return [Stage(name, modules) for name, modules in stages.items() if modules]
