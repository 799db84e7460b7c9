"""YAML whose names are the words that were typed.

YAML 1.1 reads the words ``no``, ``yes``, ``on`` and ``off`` as truth values, ``1:30`` and ``010`` as other
numbers and ``2026-11-26`` as a date (https://yaml.org/type/bool.html). Here only ``true``, ``false``,
``null`` and decimal numbers are more than words, nearly as in YAML 1.2
(https://yaml.org/spec/1.2.2/#103-core-schema), and a key is always a word.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import yaml
from yaml.nodes import MappingNode, ScalarNode

_MERGE = "tag:yaml.org,2002:merge"
_CORE = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    "float": (r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
}


class _Words(yaml.SafeLoader):
    """The loader of the module's description; a key that occurs twice is an error."""

    yaml_implicit_resolvers: dict[str, Any] = {"<": [(_MERGE, re.compile("<<"))]}

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Make a dictionary whose keys are words."""
        if isinstance(node, MappingNode):
            keys = [key for key, _ in node.value if isinstance(key, ScalarNode) and key.tag != _MERGE]
            for key in keys:
                key.tag = "tag:yaml.org,2002:str"
            words = [key.value for key in keys]
            if twice := [word for word in words if words.count(word) > 1]:
                problem = f"{twice[0]!r} occurs twice"
                raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return super().construct_mapping(node, deep)


for _name, (_pattern, _first) in _CORE.items():
    # an integer is also a float, and the first match counts
    _Words.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_pattern})$"), _first)


class _Texts(_Words):
    """Every plain value is the text that was typed."""

    yaml_implicit_resolvers: dict[str, Any] = {"<": [(_MERGE, re.compile("<<"))]}


def read_words(text: str) -> Any:
    """Return the content of a YAML text.

    Raises:
        yaml.YAMLError: It is not YAML, or a key occurs twice in a mapping.
    """
    return yaml.load(text, _Words)


def read_texts(text: str) -> Any:
    """Return the content of a YAML text with every number, truth value and null as it was typed."""
    return yaml.load(text, _Texts)


def as_typed(options: Mapping[str, Any], texts: Mapping[str, Any]) -> dict[str, Any]:
    """Return options in which a number that may be a name, such as ``1.10`` or ``1e3``, is the typed text.

    The command that gets the option knows whether it is a number.

    Args:
        options: From ``read_words``.
        texts: The same options from ``read_texts``.
    """
    return {
        key: texts[key] if isinstance(value, (int, float)) and json.dumps(value) != texts[key] else value
        for key, value in options.items()
    }
