"""Put the values of a checkpoint into a network, and say exactly what fitted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cbam_lightning.errors import UsageError

# Wrappers that rename keys: DataParallel and DistributedDataParallel, torch.compile.
_WRAPPERS = ("module.", "_orig_mod.")


@dataclass(frozen=True)
class LoadReport:
    """Which keys of a checkpoint found their place.

    Attributes:
        matched: Loaded.
        missing: In the network, not in the checkpoint; they keep their initial values.
        unexpected: In the checkpoint, not in the network; left out.
        reshaped: In both, with shapes that differ (ours, theirs); they keep their initial values.
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]

    def __str__(self) -> str:
        lines = [
            f"matched {len(self.matched)}, missing {len(self.missing)}, "
            f"unexpected {len(self.unexpected)}, reshaped {len(self.reshaped)}"
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
    head: str = "fc",
    load_head: bool = True,
    strict: bool = True,
    source: str = "the checkpoint",
) -> LoadReport:
    """Copy the values of a checkpoint into a network.

    The classifier may differ, since fine-tuning gives it other classes; everything else has to fit.

    Args:
        network: Changed in place, and only if nothing is raised.
        state_dict: Keys and values, wrappers' prefixes allowed.
        head: Name of the classifier inside the network.
        load_head: Whether to load the classifier where its shape fits.
        strict: Whether a key outside the classifier that is missing, unexpected or of another shape is an
            error. If not, what fits is loaded.
        source: What to call the checkpoint in an error.

    Returns:
        Which keys fitted.

    Raises:
        UsageError: The checkpoint belongs to another network.
    """
    theirs = strip_wrappers(state_dict)
    if not load_head:
        theirs = {key: value for key, value in theirs.items() if not key.startswith(f"{head}.")}
    ours = network.state_dict()
    common = [key for key in ours if key in theirs]
    report = LoadReport(
        matched=tuple(key for key in common if ours[key].shape == theirs[key].shape),
        missing=tuple(key for key in ours if key not in theirs),
        unexpected=tuple(key for key in theirs if key not in ours),
        reshaped={
            key: (tuple(ours[key].shape), tuple(theirs[key].shape))
            for key in common
            if ours[key].shape != theirs[key].shape
        },
    )
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
