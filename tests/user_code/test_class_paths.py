"""Classes by their import path: what a person types is imported, what a checkpoint says is looked up."""

import sys
from pathlib import Path

import pytest

from cbam_lightning.errors import UsageError
from cbam_lightning.user_code.class_paths import (
    find_class,
    import_class_path,
    import_module,
    importing_nothing,
    is_class_path,
)


@pytest.fixture(autouse=True)
def own_modules(monkeypatch):
    monkeypatch.syspath_prepend(".")
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.B", True), ("a.b.C", True), ("cbam", False), ("wide_resnet18_1.5", False), ("timm/a.b", False)],
)
def test_what_has_the_form_of_a_class_path(name, expected):
    assert is_class_path(name) is expected


def test_a_typed_path_is_imported_once_and_then_found():
    Path("once.py").write_text("class A:\n    pass\nprint(1, file=open('count', 'a'))\n")
    assert find_class("once.A") is None
    for _ in range(2):
        import_class_path("once.A", "--x")
    assert find_class("once.A") is sys.modules["once"].A
    assert Path("count").read_text() == "1\n"


def test_nothing_is_imported_while_names_come_from_a_checkpoint():
    Path("lying.py").write_text("class A:\n    pass\n")
    with importing_nothing():
        import_class_path("lying.A", "--x")
    assert "lying" not in sys.modules
    import_class_path("lying.A", "--x")
    assert "lying" in sys.modules


@pytest.mark.parametrize("name", [None, "cbam", "wide_resnet18_1.5", "torchvision/resnet18"])
def test_other_names_import_nothing(name):
    before = set(sys.modules)
    import_class_path(name, "--x")
    assert set(sys.modules) == before


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "x = 1\nraise ValueError('boom')\n",
            r"--x: 'broken' cannot be imported. broken\.py, line 2: ValueError: boom",
        ),
        ("def f(:\n", r"broken\.py, line 1: SyntaxError: "),
        (
            "import no_such_thing\n",
            r"broken\.py, line 1: ModuleNotFoundError: .*no_such_thing",
        ),
        ("import sys\n\nsys.exit(3)\n", r"broken\.py, line 3: SystemExit: 3"),
    ],
)
def test_a_module_that_raises_is_named_with_its_line(text, expected):
    Path("broken.py").write_text(text)
    with pytest.raises(UsageError, match=expected):
        import_module("broken", "--x")


def test_what_is_not_there():
    Path("there.py").write_text("")
    with pytest.raises(UsageError, match="--x: there is no module 'nowhere' in /"):
        import_class_path("nowhere.A", "--x")
    with pytest.raises(UsageError, match=r"no module 'thre' .* Did you mean 'there'\?"):
        import_class_path("thre.A", "--x")
    with pytest.raises(UsageError, match=r"--x is 'there.A', but there is no 'A' in .*there\.py"):
        import_class_path("there.A", "--x")
