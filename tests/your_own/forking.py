"""Run the console command repeatedly without importing torch each time.

A process in the user's environment imports the libraries once and forks for each command. The child gets the
arguments, working directory, environment and import path that a fresh process would have.
"""

import json
import os
import sys
from pathlib import Path

import pytest

from cbam_lightning.cli.main import main

PROGRAMS = {"cbam-lightning": main, "pytest": pytest.console_main}
HEAVY = (
    "cbam_lightning.cli.trainer",
    "cbam_lightning.studies.compare.comparison_table",
    "cbam_lightning.studies.compare.results_file",
    "cbam_lightning.explain.networks",
)


def serve():
    """Run one command per line of standard input, and print its exit code."""
    for name in HEAVY:
        __import__(name)
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if not child:
            become(asked)
            code = PROGRAMS[Path(asked["argv"][0]).name]()
            sys.stdout.flush()
            os._exit(code)  # a regular exit tears down torch, which takes longer than most commands
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def become(asked):
    """Make this process look like a freshly started one."""
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
