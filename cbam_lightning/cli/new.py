"""``cbam-lightning new``: a small project of one's own to start from."""

from __future__ import annotations

import shlex
from pathlib import Path

from cbam_lightning.cli.commands import Parser
from cbam_lightning.errors import UsageError

_TEMPLATE = Path(__file__).parent / "project"
_ENDINGS = (".md", ".py", ".yaml")


def new(args: list[str]) -> None:
    """Write the files of a project into a new folder."""
    text = (
        "Write a small project that runs as it is: an attention module, a task with its own loss, a data "
        "set, an experiment, a study, tests and a README."
    )
    parser = Parser(prog="cbam-lightning new", description=text)
    parser.add_argument("folder", metavar="DIR", help="a new folder, or an empty one")
    folder = Path(parser.parse_args(args).folder)
    _write_project(folder)
    print(f"Written: {folder}. Now: cd {shlex.quote(str(folder))}, and read README.md")


def _write_project(folder: Path) -> None:
    """Copy the files.

    Raises:
        UsageError: There is something in the folder.
        OSError: It cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        message = f"{folder} is not an empty folder, and nothing in it is overwritten; give another name."
        raise UsageError(message)
    files = sorted(path for path in _TEMPLATE.iterdir() if path.suffix in _ENDINGS)
    folder.mkdir(parents=True, exist_ok=True)
    for path in files:
        (folder / path.name).write_bytes(path.read_bytes())
