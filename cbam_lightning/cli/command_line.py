"""Commands made from typed functions: the signature declares each option, the docstring explains it.

Parameters before the ``*`` of a signature are positional arguments, those after it are options. A parameter
without a default is required. ``Annotated[str, "DIR"]`` names the value in the help, ``Sequence`` takes one
or more values, and a parameter whose type is a dataclass stands for all of that dataclass's fields.
"""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from types import NoneType
from typing import Annotated, Any, Literal, NoReturn, get_args, get_origin, get_type_hints

from docstring_parser import parse

from cbam_lightning.errors import UsageError, closest, unknown_name

Command = Callable[..., Any]
Folder = Annotated[str, "DIR"]


@dataclass(frozen=True)
class Group:
    """Several commands under one name, such as ``weights list`` and ``weights show``.

    Attributes:
        summary: One sentence for the help.
        actions: The commands by their second word.
        default: Runs if the second word is none of the actions; None: an action is required.
    """

    summary: str
    actions: Mapping[str, Command]
    default: Command | None = None


class _Help(argparse.HelpFormatter):
    """Wraps the paragraphs of a text, but for those that are indented, such as tables."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        paragraphs = re.split(r"\n[ ]*\n", text)
        return "\n\n".join(p if p.startswith(" ") else fill(p, width, indent) for p in paragraphs)


class Parser(argparse.ArgumentParser):
    """A parser that accepts no abbreviations and raises its errors."""

    def __init__(self, prog: str, description: str, **options: Any) -> None:
        options.setdefault("formatter_class", _Help)
        super().__init__(prog=prog, description=description, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Raise argparse's message as a ``UsageError``, with the closest option if one was misspelt."""
        if unknown := re.fullmatch(r"unrecognized arguments: (([^ =]*).*)", message):
            message = f"unknown argument {unknown[1]!r}.{closest(unknown[2], self._option_string_actions)}"
        end = "" if message.endswith((".", "?")) else "."
        text = f"{message}{end} See `{self.prog} --help`."
        raise UsageError(text)


def summary(command: Command | Group) -> str:
    """Return the sentence that describes a command in a list of commands."""
    if isinstance(command, Group):
        return command.summary
    return parse(command.__doc__ or "").short_description or ""


def list_parser(prog: str, description: str, kind: str, texts: Mapping[str, str], notes: str = "") -> Parser:
    """Return a parser whose help lists commands, and which parses nothing but options.

    Args:
        prog: The words before the command's name.
        description: One sentence.
        kind: What the help calls a command, in capitals.
        texts: The sentence for each command's name.
        notes: The end of the help.
    """
    width = max(map(len, texts)) + 2
    rows = "\n".join(f"  {name:<{width}}{text}" for name, text in texts.items())
    return Parser(
        prog,
        description,
        usage=f"{prog} {kind} ...",
        epilog=f"{kind.lower()}s:\n{rows}\n\nRun `{prog} {kind} --help` for details.{notes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def run(prog: str, command: Command | Group, args: list[str]) -> None:
    """Run a command, or the command of a group that the first word names.

    Raises:
        UsageError: An argument is wrong, or what the command raises.
    """
    if not isinstance(command, Group):
        _call(command, vars(_parser(prog, command).parse_args(args)))
    elif args and args[0] in command.actions:
        run(f"{prog} {args[0]}", command.actions[args[0]], args[1:])
    elif command.default:
        run(prog, command.default, args)
    else:
        texts = {name: summary(action) for name, action in command.actions.items()}
        parser = list_parser(prog, command.summary, "ACTION", texts)
        if args and not args[0].startswith("-"):
            raise unknown_name(kind=f"action of `{prog}`", given=args[0], allowed=command.actions)
        parser.parse_args(args)
        parser.error(f"an action is required: {', '.join(command.actions)}")


def _parser(prog: str, command: Command) -> Parser:
    text = parse(command.__doc__ or "")
    description = "\n\n".join(filter(None, (text.short_description, text.long_description))).replace(
        "``", "`"
    )
    parser = Parser(prog, description)
    for parameter, kind, help_text in _parameters(command):
        required = parameter.default is parameter.empty
        options = {"help": help_text, **_value(kind, parameter.default)}
        if parameter.kind is parameter.KEYWORD_ONLY:
            name = f"--{parameter.name.replace('_', '-')}"
            parser.add_argument(name, required=required, **options)
        else:
            if not required:
                options["nargs"] = "*" if "nargs" in options else "?"
            parser.add_argument(parameter.name, **{"metavar": parameter.name.upper(), **options})
    return parser


def _parameters(owner: Command) -> Iterator[tuple[inspect.Parameter, Any, str]]:
    """Yield each parameter with its type and its help; for a dataclass, those of its fields."""
    sources = reversed(inspect.getmro(owner)) if isinstance(owner, type) else [owner]
    documented = (text for source in sources for text in parse(source.__doc__ or "").params)
    texts = {text.arg_name: text.description or "" for text in documented}
    types = get_type_hints(owner, include_extras=True)
    for name, parameter in inspect.signature(owner).parameters.items():
        if is_dataclass(types[name]):
            yield from _parameters(types[name])
            continue
        text, default = texts.get(name, "").replace("``", "`").replace("%", "%%"), parameter.default
        if not (default is parameter.empty or default is None or default is False or default == ()):
            shown = default if isinstance(default, (str, int, float)) else " ".join(default)
            text = f"{text} Default: {shown}.".strip()
        yield parameter, types[name], text


def _value(kind: Any, default: Any) -> dict[str, Any]:
    """Return how argparse reads a value of a type."""
    options: dict[str, Any] = {} if default is inspect.Parameter.empty else {"default": default}
    if NoneType in get_args(kind):
        kind = get_args(kind)[0]
    if kind is bool:
        return options | {"action": argparse.BooleanOptionalAction if default is None else "store_true"}
    if get_origin(kind) is Sequence:
        (kind,), options["nargs"] = get_args(kind), "+"
    if get_origin(kind) is Annotated:
        kind, options["metavar"] = get_args(kind)
    if get_origin(kind) is Literal:  # not as `choices`: the commands' own errors name the closest one
        kind, options["metavar"] = str, f"{{{','.join(get_args(kind))}}}"
    return ({"metavar": "N"} if kind in (int, float) else {}) | options | {"type": kind}


def _call(owner: Command, values: Mapping[str, Any]) -> Any:
    types = get_type_hints(owner)
    arguments = {
        name: _call(types[name], values) if is_dataclass(types[name]) else values[name]
        for name in inspect.signature(owner).parameters
    }
    return owner(**arguments)
