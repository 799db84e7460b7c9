"""Whether a checkpoint belongs to the network and the classes of a run, and which model it was saved from."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cbam_lightning.errors import UsageError, first_names
from cbam_lightning.user_code.class_paths import find_class, import_class_path, is_class_path
from cbam_lightning.weights import Header

# Hyperparameters whose values may be import paths of classes.
_NAMES = ("class_path", "network", "attention", "backbone_attention")
BUILD_OPTIONS = ("network", "network_options", "attention", "attention_options", "num_classes", "in_channels")


def model_of_checkpoint(
    state: Mapping[str, Any], path: str, options: Mapping[str, Any], default_class: str
) -> dict[str, Any]:
    """Return the class and the options of the model that a training checkpoint was saved from.

    Args:
        state: Content of a ``.ckpt`` of Lightning's trainer.
        path: Path of the file.
        options: The user's options of the model; classes that they name are imported.
        default_class: Class of the model if the checkpoint does not name one.

    Returns:
        ``class_path`` and ``init_args``, as in a configuration.

    Raises:
        UsageError: The file is not a training checkpoint, or names a class whose module is not imported.
    """
    if "pytorch-lightning_version" not in state:
        raise UsageError(f"{path} was not written by Lightning's trainer; pass it as --model.weights.")
    saved = state.get("hyper_parameters", {})
    class_path = saved.get("_class_path", default_class)
    named = set(_class_paths({**saved, "class_path": class_path}))
    for name, value in options.items():
        if isinstance(value, str) and (name in _NAMES or value in named):
            import_class_path(value, f"--model.{name}")
    require_known_classes({**saved, "class_path": class_path}, path)
    init_args = {name: value for name, value in saved.items() if not name.startswith("_")}
    return {"class_path": class_path, "init_args": init_args}


def require_known_classes(values: Any, source: str) -> None:
    """Refuse a class named by a checkpoint unless its module is already imported: importing runs code.

    Args:
        values: Hyperparameters of the checkpoint.
        source: Name of the checkpoint in error messages.

    Raises:
        UsageError: Names the class, and says how to import its module.
    """
    for value in _class_paths(values):
        if find_class(value) is None:
            raise UsageError(
                f"{source} names the class {value!r:.200}, which is not imported; import its module with "
                f"--imports {value.rpartition('.')[0]:.200}."
            )


def _class_paths(values: Any) -> Iterator[str]:
    """Return the import paths of the classes that hyperparameters name, at any depth."""
    if isinstance(values, (list, tuple)):
        for value in values:
            yield from _class_paths(value)
    elif isinstance(values, Mapping):
        for name, value in values.items():
            if name in _NAMES and is_class_path(value):
                yield value
            yield from _class_paths(value)


def require_same_network(saved: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Refuse to continue from a checkpoint of another network or of other classes.

    Args:
        saved: Hyperparameters of the checkpoint; missing ones may be anything.
        current: Hyperparameters of the run.

    Raises:
        UsageError: Says what differs.
    """
    for name in BUILD_OPTIONS:
        if name in saved and without_implementation(saved[name]) != without_implementation(current[name]):
            raise UsageError(
                f"the checkpoint has {name} {saved[name]!r} and this run {current[name]!r}; they "
                "have to be the same. To fine-tune, use --model.weights instead of --ckpt_path."
            )
    saved_names, names = (_in_one_form(values.get("class_names")) for values in (saved, current))
    if saved_names and names and saved_names != names:
        raise UsageError(
            f"the checkpoint's classes{first_names(saved_names)} differ from the "
            f"data's{first_names(names)}. To fine-tune, use --model.weights instead of --ckpt_path."
        )


def class_mismatch(
    header: Header, num_classes: int, class_names: Sequence[str] | None, source: str
) -> str | None:
    """Return how the classes of weights differ from those of a network, or ``None`` if they do not.

    Args:
        header: Header of the weights.
        num_classes: Number of classes of the network.
        class_names: Their names, if known.
        source: Name of the weights.
    """
    names = _in_one_form(class_names)
    known = _in_one_form(header.class_names)
    same_names = not names or not known or names == known
    if header.num_classes == num_classes and same_names:
        return None
    return (
        f"{source} has {header.num_classes} classes{first_names(header.class_names)}, "
        f"the network has {num_classes}{first_names(names)}"
    )


def _in_one_form(names: Sequence[str] | None) -> tuple[str, ...]:
    """Return names as they are compared: macOS decomposes letters such as é, other systems do not."""
    return tuple(unicodedata.normalize("NFC", name) for name in names or ())


def without_implementation(value: Any) -> Any:
    """Drop the implementation from an attention's options: every implementation is the same function."""
    if isinstance(value, Mapping):
        return {name: option for name, option in value.items() if name != "implementation"}
    return value
