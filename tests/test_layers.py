"""Imports only point down: a package may import those below it, and none imports the command."""

import ast
from pathlib import Path

import cbam_lightning

PACKAGE = Path(cbam_lightning.__file__).parent
# From top to bottom; those on one line do not import each other.
LAYERS = [
    {"__main__"},
    {"cli"},
    {"studies"},
    {"benchmarks"},
    {"tasks"},
    {"callbacks"},
    {"data"},
    {"explain"},
    {"metrics", "optim", "runs"},
    {"models"},
    {"attention", "weights"},
    {"tables"},
    {"checks", "files", "seeding", "user_code"},
    {"errors"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "cbam_lightning":
                names = [f"cbam_lightning.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "cbam_lightning" and len(parts) > 1 and parts[1] in RANK:
                yield parts[1]


def test_every_file_belongs_to_a_room():
    found = {room(path) for path in PACKAGE.rglob("*.py")} - {"__init__"}
    assert found == set(RANK)


def test_imports_point_down():
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in PACKAGE.rglob("*.py")
        if path.name != "__init__.py" or path.parent != PACKAGE
        for name in imported(path)
        if name != room(path) and RANK[name] <= RANK[room(path)]
    ]
    assert not wrong


def test_plain_torch_rooms_do_not_know_lightning():
    for name in ("attention", "explain", "models", "weights"):
        for path in (PACKAGE / name).rglob("*.py"):
            assert "lightning." not in path.read_text().replace("cbam_lightning.", ""), path


def test_the_top_level_holds_few_files():
    assert len(list(PACKAGE.glob("*.py"))) <= 7
