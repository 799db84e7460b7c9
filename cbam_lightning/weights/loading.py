"""Put the values of a checkpoint into a network, and say exactly what fitted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cbam_lightning.errors import UsageError

# Wrappers that rename keys: DataParallel and DistributedDataParallel, torch.compile.
_WRAPPERS = ("module.", "_orig_mod.")
# What every network calls its attention modules.
ATTENTION = "attention"


@dataclass(frozen=True)
class LoadReport:
    """Which keys of a checkpoint found their place.

    Attributes:
        matched: Loaded.
        missing: In the network, not in the checkpoint; they keep their initial values.
        unexpected: In the checkpoint, not in the network; left out.
        reshaped: In both, with shapes that differ (ours, theirs); they keep their initial values.
        added: Of attention that the network has and the checkpoint was made without, as was asked for.
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    added: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [
            f"matched {len(self.matched)}, missing {len(self.missing)}, "
            f"unexpected {len(self.unexpected)}, reshaped {len(self.reshaped)}"
            + (f", new attention {len(self.added)}" if self.added else "")
        ]
        for title, keys in (("missing", self.missing), ("unexpected", self.unexpected)):
            if keys:
                lines.append(f"  {title}: {_shorten(keys)}")
        for key, (ours, theirs) in self.reshaped.items():
            lines.append(f"  reshaped: {key} is {ours} here and {theirs} in the checkpoint")
        return "\n".join(lines)

    def faults(self, head: str) -> tuple[str, ...]:
        """Return the keys outside the classifier that did not fit: missing, unexpected, reshaped."""
        keys = (*self.missing, *self.unexpected, *self.reshaped)
        return tuple(key for key in keys if not key.startswith(f"{head}."))


def classifier_name(network: nn.Module) -> str:
    """Return the name of the last layer: what ``get_classifier`` returns, or else the last linear layer."""
    modules = dict(network.named_modules())
    get_classifier = getattr(network, "get_classifier", None)
    if callable(get_classifier):
        classifier = get_classifier()
        return next((name for name, module in modules.items() if module is classifier), "fc")
    return next((name for name in reversed(modules) if isinstance(modules[name], nn.Linear)), "fc")


def _shorten(keys: tuple[str, ...], shown: int = 4) -> str:
    more = f", … ({len(keys)} in all)" if len(keys) > shown else ""
    return ", ".join(keys[:shown]) + more


def strip_wrappers(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove ``module.`` and ``_orig_mod.``, in whichever order, where they stand in front of every key."""
    state = dict(state_dict)
    while state and (prefix := next((p for p in _WRAPPERS if all(k.startswith(p) for k in state)), None)):
        state = {key[len(prefix) :]: value for key, value in state.items()}
    return state


@torch.no_grad()
def load_into(
    network: nn.Module,
    state_dict: Mapping[str, Tensor],
    *,
    head: str | None = None,
    load_head: bool = True,
    new_attention: bool = False,
    strict: bool = True,
    source: str = "the checkpoint",
) -> LoadReport:
    """Copy the values of a checkpoint into a network.

    The classifier may differ, since fine-tuning gives it other classes; everything else has to fit.

    Args:
        network: Changed in place, and only if nothing is raised.
        state_dict: Keys and values, wrappers' prefixes allowed.
        head: Name of the classifier inside the network; left out, it is ``classifier_name(network)``.
        load_head: Whether to load the classifier where its shape fits.
        new_attention: Whether the network has been given attention that the checkpoint was made without, so
            that its keys are expected to be missing.
        strict: Whether a key outside the classifier that is missing, unexpected or of another shape is an
            error. If not, what fits is loaded.
        source: What to call the checkpoint in an error.

    Returns:
        Which keys fitted.

    Raises:
        UsageError: The checkpoint belongs to another network.
    """
    head = classifier_name(network) if head is None else head
    theirs = strip_wrappers(state_dict)
    if not load_head:
        theirs = {key: value for key, value in theirs.items() if not key.startswith(f"{head}.")}
    report = _compare(network.state_dict(), theirs, new_attention)
    faults = report.faults(head)
    if not report.matched or (strict and faults):
        message = (
            f"{source} belongs to another network: {len(faults)} of its keys and ours do not fit "
            f"({_shorten(faults)}). Give the network and attention it was made with, or load what fits with "
            "strict_weights=False (--model.strict_weights false)."
        )
        raise UsageError(message)
    network.load_state_dict({key: theirs[key] for key in report.matched}, strict=False)
    return report


def _compare(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], new_attention: bool) -> LoadReport:
    shapes = {key: (tuple(ours[key].shape), tuple(theirs[key].shape)) for key in ours if key in theirs}
    absent = [key for key in ours if key not in theirs]
    added = [key for key in absent if new_attention and ATTENTION in key.split(".")]
    return LoadReport(
        matched=tuple(key for key, (our_shape, their_shape) in shapes.items() if our_shape == their_shape),
        missing=tuple(key for key in absent if key not in added),
        unexpected=tuple(key for key in theirs if key not in ours),
        reshaped={key: pair for key, pair in shapes.items() if pair[0] != pair[1]},
        added=tuple(added),
    )
