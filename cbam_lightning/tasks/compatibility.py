"""Whether a checkpoint belongs to the network and the classes of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cbam_lightning.class_paths import find_class, import_class_path, is_class_path
from cbam_lightning.errors import UsageError, first_names

# Hyperparameters that are names, and may be import paths of classes.
_NAMES = ("class_path", "network", "attention", "backbone_attention")
_SAME = ("network", "network_options", "attention", "attention_options", "num_classes", "in_channels")


def import_typed_classes(options: Mapping[str, Any]) -> None:
    """Import the modules of classes that the user typed as a network or an attention.

    Args:
        options: Of the model, and nothing that a checkpoint says.

    Raises:
        UsageError: There is no such module or class.
    """
    for name in _NAMES:
        if isinstance(options.get(name), str):
            import_class_path(options[name], f"--model.{name}")


def require_known_classes(values: Any, source: str) -> None:
    """Refuse a class that a checkpoint names unless its module is there already: importing runs code.

    Args:
        values: Hyperparameters of the checkpoint.
        source: What to call it.

    Raises:
        UsageError: Says which class, and how to import its module.
    """
    if isinstance(values, (list, tuple)):
        for value in values:
            require_known_classes(value, source)
    if not isinstance(values, Mapping):
        return
    for name, value in values.items():
        if name in _NAMES and is_class_path(value) and find_class(value) is None:
            message = (
                f"{source} names the class {value!r:.200}, unknown here; import its module with --imports "
                f"{value.rpartition('.')[0]:.200}."
            )
            raise UsageError(message)
        require_known_classes(value, source)


def require_same_network(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Refuse to go on with a checkpoint of another network or of other classes.

    Args:
        theirs: Hyperparameters of the checkpoint; what they leave out may be anything.
        ours: Hyperparameters of the run.

    Raises:
        UsageError: Says what differs.
    """
    for name in _SAME:
        if name in theirs and _function(theirs[name]) != _function(ours[name]):
            message = (
                f"the checkpoint has {name} {theirs[name]!r} and this run {ours[name]!r}; they "
                "have to be the same. To fine-tune, start from --model.weights instead of --ckpt_path."
            )
            raise UsageError(message)
    their_names, our_names = (tuple(values.get("class_names") or ()) for values in (theirs, ours))
    if their_names and our_names and their_names != our_names:
        message = (
            f"the checkpoint's classes{first_names(their_names)} differ from the "
            f"data's{first_names(our_names)}. To fine-tune, start from --model.weights."
        )
        raise UsageError(message)


def _function(value: Any) -> Any:
    """Leave the implementation out of an attention's options: it is the same function in another way."""
    if isinstance(value, Mapping):
        return {name: option for name, option in value.items() if name != "implementation"}
    return value
