"""The classifier of any network: its last layer."""

from __future__ import annotations

from torch import nn


def classifier_name(network: nn.Module) -> str:
    """Return the name of a network's classifier, ``fc`` if there is none.

    It is the module that ``get_classifier`` returns, or else the last linear layer.
    """
    modules = dict(network.named_modules())
    get_classifier = getattr(network, "get_classifier", None)
    if callable(get_classifier):
        classifier = get_classifier()
        return next((name for name, module in modules.items() if module is classifier), "fc")
    return next((name for name in reversed(modules) if isinstance(modules[name], nn.Linear)), "fc")
