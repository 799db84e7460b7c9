"""Turns the errors of jsonargparse into one sentence each.

jsonargparse explains at length why a value fits none of the types that a parameter may have. The relevant
line is the innermost one; the parameter's full name is spread over the lines above it.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterable
from pathlib import Path
from pydoc import locate
from typing import Any

import yaml

from cbam_lightning.cli.config_classes import class_options
from cbam_lightning.errors import UsageError, closest
from cbam_lightning.user_code.class_paths import find_class, import_class_path, is_class_path

_MAX_VALUES = 100_000  # in a configuration

# A class path that was given: by itself, or as the class of a dictionary.
_GIVEN_PATH = re.compile(r"^\s*Given value: ([\w.]+)$|'class_path': '([\w.]+)'", re.MULTILINE)
_KEY = re.compile(r'Parser key "([^"]+)"')
_BASE_CLASS = r"Problem with given class_path 'pytorch_lightning\.Callback':\s+Option .* is not accepted"
# What tells of the attempts of jsonargparse and not of the mistake, with its replacement.
_NOISE = {
    # a value on its way to an option inside an object
    r"NestedArg\(key='[^']*', val=(['\"]?)(.*)\1\)": r"\2",
    # the whole object, after the value
    r"(value: .*?)\. Got value: Namespace\(.*": r"\1",
    # an attempt to read the value as a configuration file
    r"^ *- Expected a path but .*\n": "",
    # the base class of the callbacks, tried after the class that was named
    rf"(class_path '(?!pytorch_lightning\.Callback')[\s\S]*)- {_BASE_CLASS}": r"\1",
}
_SUBCLASS_OF = re.compile(r" (?:to|be) a subclass of \(?(?:<class '|typing\.Union\[)?(?:\w+\.)*(\w+)")
_PLAIN_TYPE = re.compile(r"Expected an? <class '(?:int|float|str|collections\.abc\.Sequence)'>")


def explain(message: str, options: Iterable[str]) -> str:
    """Return a sentence that says what was given, what is allowed, and what to do.

    Args:
        message: Text of jsonargparse's error.
        options: All options of the sub-command, such as ``trainer.max_epochs``.
    """
    for noise, replacement in _NOISE.items():
        message = re.sub(noise, replacement, message, flags=re.MULTILINE)
    key, inner = _innermost(message)
    if problem := _class_path_problem(key, message) or _option_problem(key, message, options):
        return problem
    if found := re.search(r"File does not exist: '([^']+)'", message):
        return f"there is no configuration file {found[1]}; check the path after --config."
    if found := re.search(
        r"Multiple subclasses with name (\w+)\. .*ambiguity: (.+)\.$", message, re.MULTILINE
    ):
        return f"--{key} is {found[1]!r}, the name of several classes; give the path of one: {found[2]}."
    if "arguments are required" in message:
        return re.sub(r"\b(fit|validate|test|predict)\.", "--", message) + "."
    return _value_problem(key, inner, message) or message


def _innermost(message: str) -> tuple[str, str]:
    """Return the full name of the first option that is wrong, and the lines about it alone."""
    keys, lines, depth = list[str](), list[str](), -1
    for line in message.splitlines():
        indent = len(line) - len(line.lstrip())
        if line.strip() and indent <= depth:
            break
        if found := _KEY.search(line):
            keys.append(found[1])
            lines.clear()
            depth = indent
        lines.append(line)
    return ".".join(keys), "\n".join(lines)


def _value_problem(key: str, inner: str, message: str) -> str | None:
    """Return what is wrong with the value of an option."""
    is_plain = _PLAIN_TYPE.search(inner)
    found = re.search(r"Expected a dot import path string: (\S+)", inner)
    if found and not is_plain:
        return f"--{key} is {found[1]!r}, which is not a known class.{_classes(key, found[1], inner)}"
    if "is abstract" in inner and not is_plain:
        return f"--{key} has options but no class; name it first.{_classes(key, '', inner)}"
    types = re.findall(
        r"Expected an? (?!dot import|instantiatable)(.+?)(?:\. Got value: .+)?$", inner, re.MULTILINE
    )
    given = re.findall(r"(?:Got|Given) value: (.+)", inner) or re.findall(r"Given value: (.+)", message)
    if types and given:
        return f"--{key} is {given[0]!r}; allowed: {' or '.join(dict.fromkeys(map(_plain, types)))}."
    return None


def _option_problem(key: str, message: str, options: Iterable[str]) -> str | None:
    """Return what is wrong with the name of an option, if that is the problem."""
    if found := re.search(r"Option '([^']+)' is not accepted", message):
        return _unaccepted(key, found[1], re.findall(r"class_path[ =]'([\w.]+)'", message))
    if found := re.search(r"does not accept option '([^']+)'", message):
        return f"unknown option {found[1]!r}.{closest(found[1], options)}"
    if found := re.search(r"unrecognized arguments: ([^ =]*)", message):
        return f"unknown option {found[1]!r}.{closest(found[1].lstrip('-'), options, '--')}"
    if found := re.search(
        r"following arguments are required: ([\w, .]+?)(?:\. Got|$)", message, re.MULTILINE
    ):
        paths = re.findall(r"class_path[ =]'([\w.]+)'", message)
        needed = ", ".join(f"--{key}.{name}" for name in found[1].replace(",", " ").split())
        return f"--{key} {paths[-1].rpartition('.')[2]} needs {needed}." if key and paths else None
    return None


def _class_path_problem(key: str, message: str) -> str | None:
    """Return what is wrong with a class path that was given, if that is the problem."""
    if "Problem with given class_path" not in message and "path" not in message.partition("Given value:")[0]:
        return None
    for groups in _GIVEN_PATH.findall(message):
        path = "".join(groups)
        if not is_class_path(path):
            continue
        try:
            import_class_path(path, f"--{key}")
        except UsageError as error:
            return str(error)
        if find_class(path) is None:
            return f"--{key} is {path!r}, which is not a class; give the path of a class."
        if found := _SUBCLASS_OF.search(message):
            kind = key.rpartition(".")[2] if found[1] == "Union" else found[1]
            return f"--{key} is {path!r}, which is not a {kind}."
    return None


def _plain(type_text: str) -> str:
    text = re.sub(r"Literal\[([^\]]+)\]", lambda found: found[1].replace(", ", " or "), type_text)
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text).replace("typing.", "")
    return text.replace("NoneType", "null")


def _unaccepted(key: str, option: str, class_paths: list[str]) -> str:
    owner = locate(class_paths[-1]) if class_paths else None
    if not isinstance(owner, type):
        return f"unknown option {option!r} of {key}."
    allowed = sorted(class_options(owner).keys() - {"params"})  # of an optimizer: Lightning fills it in
    if not allowed:  # Lightning's own base class, which stands for any class until one is named
        return f"{key} has no class yet to have an option {option!r}; name the class first, --{key} NAME."
    hint = closest(option, allowed)
    return f"{owner.__name__} has no option {option!r}.{hint} Allowed: {', '.join(allowed)}."


def _classes(key: str, name: str, message: str) -> str:
    """Return the class with the closest name and all allowed ones, as the end of a message."""
    bases = re.findall(r"<class '([\w.]+)'>", (re.findall(r"Subtypes: \[(.+)\]", message) or [""])[-1])
    if key.endswith("optimizer"):
        bases = ["torch.optim.Optimizer"]
    names = sorted({subclass for base in bases for subclass in _subclasses(locate(base))})
    allowed = f" Allowed: {', '.join(names)}, or the import path of a class." if names else ""
    return f"{closest(name, names)}{allowed}"


def _subclasses(base: object) -> set[str]:
    """Return the names of the public, concrete classes below ``base``."""
    if not isinstance(base, type) or base is type(None):
        return set()
    children: list[type] = base.__subclasses__()
    own = {c.__name__ for c in children if not c.__name__.startswith("_") and not inspect.isabstract(c)}
    return own.union(*map(_subclasses, children))


def broken_yaml(configs: Iterable[str | Path]) -> str | None:
    """Return what is wrong with the first of these files that is not YAML of reasonable size, if any."""
    for path in configs:
        try:
            text = Path(path).read_text()
            _expanded_size(yaml.compose(text, yaml.SafeLoader), {})
            yaml.safe_load(text)
        except yaml.YAMLError as error:
            return f"{path} is not valid YAML: {error}."
        except RecursionError:
            return f"{path} cannot be read: its values are nested too deeply."
        except FileNotFoundError:
            return f"there is no configuration file {path}; check the path after --config."
        except (OSError, OverflowError, UnicodeDecodeError) as error:
            return f"{path} cannot be read: {error}."
    return None


def _expanded_size(node: Any, sizes: dict[int, float]) -> float:
    """Count the values of a document with all aliases expanded, which can be billions for a few lines.

    Args:
        node: A node of the document.
        sizes: Sizes of the nodes seen before, by their ``id``; infinite for those that contain ``node``.

    Raises:
        OverflowError: There are too many values, or a value contains itself.
    """
    if id(node) not in sizes:
        sizes[id(node)] = math.inf
        children = node.value if isinstance(node, yaml.CollectionNode) else []
        flat = [child for item in children for child in (item if isinstance(item, tuple) else (item,))]
        sizes[id(node)] = 1 + sum(_expanded_size(child, sizes) for child in flat)
    if sizes[id(node)] > _MAX_VALUES:
        raise OverflowError("its aliases (*) expand to far too many values")
    return sizes[id(node)]
