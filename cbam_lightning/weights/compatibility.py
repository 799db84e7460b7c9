"""What a checkpoint says of its model, and whether it belongs to the network and the classes of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cbam_lightning.errors import UsageError, first_names
from cbam_lightning.user_code.class_paths import find_class, import_class_path, is_class_path

# Hyperparameters that are names, and may be import paths of classes.
_NAMES = ("class_path", "network", "attention", "backbone_attention")
_SAME = ("network", "network_options", "attention", "attention_options", "num_classes", "in_channels")


def model_of_checkpoint(
    state: Mapping[str, Any], path: str, typed: Mapping[str, Any], default_class: str
) -> dict[str, Any]:
    """Return the class and the options of the model whose training state a checkpoint is.

    Args:
        state: Content of a ``.ckpt`` of Lightning's trainer.
        path: Path of the file.
        typed: Options of the model that the user has given; classes that they name are imported.
        default_class: Of a checkpoint that does not say its class.

    Returns:
        ``class_path`` and ``init_args``, as in a configuration.

    Raises:
        UsageError: The file is no such checkpoint, or names a class whose module is not imported.
    """
    if "pytorch-lightning_version" not in state:
        message = f"{path} was not written by Lightning's trainer; start from it with --model.weights."
        raise UsageError(message)
    for name in _NAMES:
        if isinstance(typed.get(name), str):
            import_class_path(typed[name], f"--model.{name}")
    known = state.get("hyper_parameters", {})
    class_path = known.get("_class_path", default_class)
    require_known_classes({**known, "class_path": class_path}, path)
    options = {name: value for name, value in known.items() if not name.startswith("_")}
    return {"class_path": class_path, "init_args": options}


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
