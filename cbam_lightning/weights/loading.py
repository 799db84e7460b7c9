"""Load the values of a checkpoint into a network and report exactly what was loaded."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cbam_lightning.errors import UsageError
from cbam_lightning.weights.last_layer import classifier_name

# Prefixes of wrappers: DataParallel and DistributedDataParallel, torch.compile.
_WRAPPERS = ("module.", "_orig_mod.")
# The name of attention modules in every network.
ATTENTION = "attention"


@dataclass(frozen=True)
class LoadReport:
    """Which keys of a checkpoint were loaded.

    Attributes:
        matched: Loaded keys.
        missing: Keys of the network that the checkpoint lacks; they keep their initial values.
        unexpected: Keys of the checkpoint that the network lacks; they are ignored.
        reshaped: Keys of both with different shapes (network, checkpoint); they keep their initial values.
        added: Keys of attention that was added on purpose to a network trained without it.
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
        for key, (shape, saved_shape) in self.reshaped.items():
            lines.append(f"  reshaped: {key} is {shape} here and {saved_shape} in the checkpoint")
        return "\n".join(lines)

    def faults(self, head: str) -> tuple[str, ...]:
        """Return the keys outside the classifier that are missing, unexpected or reshaped."""
        keys = (*self.missing, *self.unexpected, *self.reshaped)
        return tuple(key for key in keys if not key.startswith(f"{head}."))


def _shorten(keys: tuple[str, ...], shown: int = 4) -> str:
    more = f", … ({len(keys)} in all)" if len(keys) > shown else ""
    return ", ".join(keys[:shown]) + more


def strip_wrappers(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefixes ``module.`` and ``_orig_mod.``, in any order, if every key has them."""
    state = dict(state_dict)
    while state and (prefix := next((p for p in _WRAPPERS if all(k.startswith(p) for k in state)), None)):
        state = {key[len(prefix) :]: value for key, value in state.items()}
    return state


def follow_attention(saved: Mapping[str, Tensor], current: Collection[str]) -> dict[str, Tensor]:
    """Rename attention that was inserted after a list of modules: it is inserted after the last one now.

    Args:
        saved: Values of a checkpoint.
        current: Keys of the network.
    """
    inside = f".{ATTENTION}."
    hosts = dict.fromkeys(key.partition(inside)[0] for key in current if inside in key)
    renamed = dict[str, Tensor]()
    for key, value in saved.items():
        place, _, rest = key.partition(inside)
        last = next((host for host in reversed(hosts) if host.startswith(f"{place}.")), place)
        moved = f"{last}{inside}{rest}"
        renamed[moved if rest and key not in current and moved in current else key] = value
    return renamed


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

    The classifier may differ, since fine-tuning changes the classes; everything else has to fit.

    Args:
        network: Modified in place, unless an error is raised.
        state_dict: Keys and values; prefixes of wrappers are allowed.
        head: Name of the classifier in the network. Default: ``classifier_name(network)``.
        load_head: Whether to load the classifier if its shape fits.
        new_attention: Whether the network has attention and the checkpoint was trained without, so that keys
            of the attention may be missing.
        strict: Whether a missing, unexpected or reshaped key outside the classifier is an error. Otherwise
            everything that fits is loaded.
        source: Name of the checkpoint in error messages.

    Returns:
        Which keys were loaded.

    Raises:
        UsageError: The checkpoint belongs to another network, or holds NaN or Inf.
    """
    head = classifier_name(network) if head is None else head
    saved = follow_attention(strip_wrappers(state_dict), network.state_dict())
    if not load_head:
        saved = {key: value for key, value in saved.items() if not key.startswith(f"{head}.")}
    report = compare(network.state_dict(), saved, new_attention)
    faults = report.faults(head)
    if not report.matched or (strict and faults):
        raise UsageError(
            f"{source} belongs to another network: some keys do not fit ({_shorten(faults)}). Give the "
            "network and attention it was trained with, or load what fits with strict_weights=False "
            "(--model.strict_weights false)."
        )
    _refuse_nan({key: saved[key] for key in report.matched}, network.state_dict(), source)
    network.load_state_dict({key: saved[key] for key in report.matched}, strict=False)
    return report


def _refuse_nan(saved: Mapping[str, Tensor], current: Mapping[str, Tensor], source: str) -> None:
    """Refuse values that are NaN or Inf where those of a new network, such as a mask of -Inf, are not."""
    lost = {key: ~value.isfinite() & current[key].isfinite() for key, value in saved.items()}
    if bad := tuple(key for key, where in lost.items() if where.any()):
        raise UsageError(
            f"{source} holds NaN or Inf in {len(bad)} of {len(saved)} tensors ({_shorten(bad)}): the "
            "training that wrote it diverged. Take an earlier checkpoint."
        )


def compare(
    current: Mapping[str, Tensor], saved: Mapping[str, Tensor], new_attention: bool = False
) -> LoadReport:
    """Return which values of a checkpoint fit a network; nothing is loaded.

    Args:
        current: State dict of the network.
        saved: Values of the checkpoint, without prefixes of wrappers.
        new_attention: As for ``load_into``.
    """
    shapes = {key: (tuple(current[key].shape), tuple(saved[key].shape)) for key in current if key in saved}
    absent = [key for key in current if key not in saved]
    added = [key for key in absent if new_attention and ATTENTION in key.split(".")]
    return LoadReport(
        matched=tuple(key for key, (shape, saved_shape) in shapes.items() if shape == saved_shape),
        missing=tuple(key for key in absent if key not in added),
        unexpected=tuple(key for key in saved if key not in current),
        reshaped={key: pair for key, pair in shapes.items() if pair[0] != pair[1]},
        added=tuple(added),
    )
