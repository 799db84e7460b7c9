"""The data module that ``cbam-lightning explain --data`` names."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cbam_lightning import data
from cbam_lightning.checks import check_choice
from cbam_lightning.errors import UsageError
from cbam_lightning.user_code.class_paths import find_class, import_class_path
from cbam_lightning.weights import Header
from cbam_lightning.weights.header import one_line

if TYPE_CHECKING:
    from cbam_lightning.cli.explain_commands import ExplainInputs


def module_class_of(inputs: ExplainInputs, base: type) -> Any:
    """Return the data module that ``--data`` names.

    Args:
        inputs: The options of the command.
        base: Of the data modules for this kind of networks.

    Raises:
        UsageError: There is no such data module or split.
    """
    name = inputs.data or ""
    import_class_path(name, "--data")
    classes = {known: getattr(data, known) for known in data.__all__}
    if user_class := find_class(name):
        classes[name] = user_class
    # this command has no options for the data sets of a TorchDataset, and `--images` is for images alone
    excluded = (base, data.TorchDataset, data.UnlabelledImages)
    allowed = {known: c for known, c in classes.items() if issubclass(c, base) and c not in excluded}
    check_choice("data module", name, allowed)
    check_choice("split", inputs.split, ("test", "val"))
    return allowed[name]


def build_module(
    inputs: ExplainInputs, module_class: Any, options: dict[str, Any], header: Header, *compared: str
) -> Any:
    """Build a data module, which must be for the same images and classes as the networks.

    Args:
        inputs: The options of the command.
        module_class: The data module.
        options: Of the data module; those that it does not know are left out.
        header: Of the networks.
        compared: The fields of the header that the data module has to agree with.

    Raises:
        UsageError: It needs other options, or is for other images or classes.
    """
    root = {"root": inputs.root} if inputs.root else {}
    module = _build(module_class, {**options, **root, "on_bad_image": "skip"}, inputs.data or "")
    expected = {name: getattr(header, name) for name in compared}
    wrong = [f"{name} {value}" for name, value in expected.items() if getattr(module, name) != value]
    if header.class_names is not None and tuple(header.class_names) != tuple(module.class_names):
        wrong = wrong or ["other classes"]
    if wrong:
        raise UsageError(
            f"the networks expect other images or classes than {inputs.data}: {', '.join(wrong)}."
        )
    return module


def _build(module_class: type, options: Mapping[str, Any], name: str) -> Any:
    """Build a data module with those of the options that it takes.

    Raises:
        UsageError: It needs others, or takes no root although one is given.
    """
    needed = inspect.signature(module_class).parameters.values()
    missing = {
        one.name
        for one in needed
        if one.default is one.empty and one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
    } - options.keys()
    if missing == {"root"}:
        raise UsageError(f"{name} needs --root, the folder of its files.")
    if missing:
        raise UsageError(
            f"{name} needs {', '.join(sorted(missing))}, and `explain` has no option for that; give image "
            "files with --images, or a subclass that needs nothing."
        )
    taken = _taken(module_class)
    if "root" in options and "root" not in taken:
        raise UsageError(f"{name} takes no folder; leave --root out.")
    try:
        return module_class(**{key: value for key, value in options.items() if key in taken})
    except TypeError as error:
        raise UsageError(f"{name} cannot be built: {one_line(error)}.") from error


def _taken(module_class: type) -> set[str]:
    """Return the names of the options of a class, with those that it hands on to its base class."""
    names: set[str] = set()
    for one in module_class.__mro__:
        if "__init__" in vars(one):
            parameters = inspect.signature(one.__init__).parameters.values()  # type: ignore[misc]
            names |= {parameter.name for parameter in parameters}
            if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters):
                break
    return names
