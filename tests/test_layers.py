"""Imports only point down: a layer may use those after it, and nothing knows the command."""

import ast
from pathlib import Path

import cbam_lightning

PACKAGE = Path(cbam_lightning.__file__).parent
# From the top; layers on one line do not know each other.
LAYERS = [
    {"__main__"},
    {"cli", "commands", "benchmark_cli", "data_cli", "explain_cli", "explain_images", "study_cli"}
    | {"trainer_cli", "trainer_commands", "trainer_setup", "task_parts", "cli_errors"}
    | {"own_code", "project_cli", "project", "class_defaults", "data_links", "monitors", "trainer_parts"},
    {"tasks"},
    {"data"},
    {"runs"},
    {"explain"},
    {"models"},
    {"attention", "weights"},
    {"measuring"},
    {"class_paths"},
    {"errors", "seeding", "tables", "tracebacks"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def layer(path):
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


def test_every_file_belongs_to_a_layer():
    found = {layer(path) for path in PACKAGE.rglob("*.py")} - {"__init__"}
    assert found == set(RANK)


def test_imports_point_down():
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in PACKAGE.rglob("*.py")
        if path.name != "__init__.py" or path.parent != PACKAGE
        for name in imported(path)
        if name != layer(path) and RANK[name] <= RANK[layer(path)] and not ({name, layer(path)} <= LAYERS[1])
    ]
    assert not wrong


def test_plain_torch_layers_do_not_know_lightning():
    for name in ("attention", "measuring", "models", "weights"):
        for path in (PACKAGE / name).rglob("*.py"):
            assert "lightning." not in path.read_text().replace("cbam_lightning.", ""), path
