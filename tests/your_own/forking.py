"""Runs the console command again and again without importing torch each time.

A process of the user's environment imports the libraries once, and forks for each command. The child has the
arguments, the folder, the environment and the path of a process that the console script has just started.
"""

import json
import os
import sys
from pathlib import Path

import pytest

from cbam_lightning.cli.main import main

PROGRAMS = {"cbam-lightning": main, "pytest": pytest.console_main}
HEAVY = (
    "cbam_lightning.cli.trainer_commands",
    "cbam_lightning.studies.compare",
    "cbam_lightning.explain.networks",
)


def serve():
    """Read a command from each line of the standard input, and write its exit code."""
    for name in HEAVY:
        __import__(name)
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if not child:
            become(asked)
            code = PROGRAMS[Path(asked["argv"][0]).name]()
            sys.stdout.flush()
            os._exit(code)  # taking torch down, a module at a time, takes longer than most commands
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def become(asked):
    """Take the place of a process that has just been started."""
    with Path(asked["output"]).open("wb") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.argv = asked["argv"]
    sys.path[0] = str(Path(asked["argv"][0]).parent)


if __name__ == "__main__":
    serve()
