"""Every registered attention with values of all its options, read from the annotations of its class."""

import functools
import itertools
from collections.abc import Sequence
from types import UnionType
from typing import Literal, Union, get_args, get_origin, get_type_hints

import pytest
import torch

from cbam_lightning.attention import create_attention, list_attention
from cbam_lightning.attention.registry import option_defaults, option_names
from cbam_lightning.errors import UsageError
from tests.attention.checks import randomised

NAMES = [name for name in list_attention() if name != "none"]
CHANNELS = 8
_CHOSEN = {"dims", "implementation"}  # by the tests themselves
_NUMBERS = (2, 5, 16, 1)  # in place of the default, whichever the module takes first
_LARGEST = (10, 10)  # positions of the largest map in these tests, about


def works(name, options, channels=CHANNELS):
    """Return whether the module takes these options and a map, and does not refuse either."""
    try:
        with torch.no_grad():
            create_attention(name, channels, **options).eval()(torch.ones(2, channels, *_LARGEST))
    except UsageError:
        return False
    return True


def _kinds(name, option):
    """List what the annotation of an option allows: types, and ``Literal`` or ``Sequence`` of something."""
    hint = get_type_hints(type(create_attention(name, CHANNELS)).__init__)[option]
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def numbers(name):
    """List the options that are numbers, and not only together with another option."""
    options = sorted(option_names(name) - _CHOSEN)
    return [o for o in options if {int, float} & {*_kinds(name, o)} and other_values(name, o)]


@functools.cache
def other_values(name, option):
    """List values of an option besides its default: all choices, all elements at once, or another number.

    A number may not be found: a size that is that of the map does not fit maps of several sizes.
    """
    default, values = option_defaults(name)[option], []
    for kind in _kinds(name, option):
        if get_origin(kind) is Literal:
            values.extend(get_args(kind))
        elif get_origin(kind) is Sequence and get_origin(get_args(kind)[0]) is Literal:
            values.append(get_args(get_args(kind)[0]))
        elif kind is bool:
            values.extend((False, True))
        elif kind in (int, float):
            others = (number for number in _NUMBERS if number != default)
            values.extend(itertools.islice((n for n in others if works(name, {option: n})), 1))
        elif kind is str:
            raise TypeError(f"annotate {option} of {name} with its choices, as in Literal['a', 'b']")
    return [value for value in values if value != default]


@functools.cache
def variants(name, gate=None):
    """List options in which every value of every option occurs.

    Different options share an entry if the module takes them together.

    Args:
        name: Of the attention.
        gate: The gate of all of them, if the module has the option. Default: all but ``identity``.
    """
    fixed = {"gate": gate} if gate and "gate" in option_names(name) else {}
    options = sorted(option_names(name) - _CHOSEN - fixed.keys())
    left = [(o, value) for o in options for value in other_values(name, o) if value != "identity"]
    found = [fixed]
    while left:
        row = dict(fixed)
        for option, value in left:
            if option not in row and works(name, row | {option: value}):
                row[option] = value
        if row == fixed:  # refused with all that is left, and with the defaults
            row[left[0][0]] = left[0][1]
        left = [pair for pair in left if pair not in row.items()]
        found.append(row)
    return found


def _parameter_sets(gate=None, accepted=None, but_none=False):
    return [
        pytest.param(name, options, id="-".join([name, *map(str, options.values())]))
        for name in (NAMES if but_none else list_attention())
        for options in variants(name, gate)
        if accepted is None or works(name, options) == accepted
    ]


def cases(but_none=False):
    """List every name with each of its variants."""
    return _parameter_sets(but_none=but_none)


def identity_cases(but_none=False):
    """List those that start as the identity: by the gate of this name, or by their own initial values."""
    return _parameter_sets("identity", accepted=True, but_none=but_none)


def refused_identity_cases():
    """List those that have the option ``gate``, but refuse ``identity``."""
    return _parameter_sets("identity", accepted=False)


def identity_names(accepted=True):
    """List the names of those that start as the identity where they are inserted, or that refuse to."""
    return [name for name in NAMES if works(name, variants(name, "identity")[0]) == accepted]


def published(name):
    """Return the option for the gate as published, if the module has one."""
    return {"gate": option_defaults(name)["gate"]} if "gate" in option_names(name) else {}


def starts_as_identity(name):
    """Return whether the module returns its input with its default options."""
    x = torch.randn(2, CHANNELS, *_LARGEST)
    return torch.equal(create_attention(name, CHANNELS).eval()(x), x)


def fitting(name, options, channels):
    """Return the options, with another number where the module refuses one for so few channels."""
    candidates = ({option: number} for number in (1, 2, 3) for option in numbers(name))
    return next(options | other for other in ({}, *candidates) if works(name, options | other, channels))


def create(name, options, channels=CHANNELS, dims=2):
    """Create the module with random weights, but a small residual scale."""
    if "dims" in option_names(name):
        options = options | {"dims": dims}
    module = randomised(create_attention(name, channels, **options))
    for parameter in module.parameters(recurse=False):
        if parameter.numel() == 1:
            torch.nn.init.constant_(parameter, 0.1)
    return module


EVERY_CASE = pytest.mark.parametrize(("name", "options"), cases())
IDENTITY = pytest.mark.parametrize(("name", "options"), identity_cases())
HALF = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
MODE = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
