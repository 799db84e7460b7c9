"""A command is its signature and its docstring."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Literal

import pytest

from cbam_lightning.cli.command_line import Folder, Group, run, summary
from cbam_lightning.errors import UsageError


@dataclass(frozen=True)
class Base:
    """Options of several commands.

    Attributes:
        batch_size: Images per batch.
    """

    _: KW_ONLY
    batch_size: int = 8


@dataclass(frozen=True)
class Choice(Base):
    """What to eat.

    Attributes:
        name: Name of a ``dish``.
    """

    name: str = "soup"


def eat(
    choice: Choice,
    *,
    out: Folder,
    sides: Sequence[Annotated[str, "SIDE"]] = ("bread", "rice"),
    hot: bool = False,
    spiced: bool | None = None,
    size: Literal["small", "large"] = "small",
    price: float | None = None,
):
    """Eat something.

    Nothing is left over.

    Args:
        choice: What to eat.
        out: Where to put the plate, 50 % of it.
        sides: What comes with it.
        hot: Serve it hot.
        spiced: Add spices. Default: if there are any.
        size: How much.
        price: In euros.
    """
    found.append((choice, out, list(sides), hot, spiced, size, price))


def drink(glasses: Annotated[int, "N"], cups: Sequence[str] = ()):
    """Drink.

    Args:
        glasses: Number of glasses.
        cups: None, one or more.
    """
    found.append((glasses, cups))


found = []
MEAL = Group("Have a meal.", {"eat": eat, "drink": drink})


@pytest.fixture(autouse=True)
def empty():
    found.clear()


def test_defaults_are_those_of_the_signature():
    run("meal", eat, ["--out", "table"])
    assert found == [(Choice("soup", batch_size=8), "table", ["bread", "rice"], False, None, "small", None)]


def test_every_kind_of_option():
    words = "fish --batch-size 2 --out table --sides peas --hot --no-spiced --size large --price 2.5"
    run("meal", eat, words.split())
    assert found == [(Choice("fish", batch_size=2), "table", ["peas"], True, False, "large", 2.5)]


def test_positional_arguments_may_be_several():
    run("meal", MEAL, ["drink", "2", "a", "b"])
    assert found == [(2, ["a", "b"])]


def test_the_help_is_the_docstring(capsys):
    with pytest.raises(SystemExit) as stop:
        run("meal eat", eat, ["--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for part in (
        "usage: meal eat [-h] [--batch-size N] --out DIR",
        "Eat something. Nothing is left over.",
        "Name of a `dish`. Default: soup.",
        "--batch-size N Images per batch. Default: 8.",
        "--out DIR Where to put the plate, 50 % of it.",
        "--sides SIDE [SIDE ...] What comes with it. Default: bread rice.",
        "--hot Serve it hot. --spiced",
        "Add spices. Default: if there are any.",
        "--size {small,large} How much. Default: small.",
    ):
        assert part in text


def test_the_help_of_a_group_lists_its_actions(capsys):
    with pytest.raises(SystemExit):
        run("meal", MEAL, ["--help"])
    text = capsys.readouterr().out
    assert "usage: meal ACTION ..." in text
    assert "  eat    Eat something.\n  drink  Drink.\n" in text
    assert [summary(command) for command in (MEAL, eat)] == ["Have a meal.", "Eat something."]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "an action is required: eat, drink. See `meal --help`."),
        ("--hot", "unknown argument '--hot'"),
        ("eet", "unknown action of `meal` 'eet'. Did you mean 'eat'"),
        ("eat", "the following arguments are required: --out. See `meal eat --help`."),
        ("eat --out a --bach-size=3", "unknown argument '--bach-size=3'. Did you mean '--batch-size'"),
        ("eat --out a --batch-size x", "argument --batch-size: invalid int value: 'x'"),
        ("eat --out a --ho", "unknown argument '--ho'"),
    ],
)
def test_a_mistake(words, message):
    with pytest.raises(UsageError, match=message.replace("(", r"\(").replace(".", r"\.")):
        run("meal", MEAL, words.split())
    assert not found


def test_a_group_may_have_a_default():
    run("meal", Group("Have a meal.", {"drink": drink}, default=eat), ["fish", "--out", "table"])
    assert found[0][0] == Choice("fish")
