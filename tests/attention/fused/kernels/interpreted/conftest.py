"""These tests run in a process of their own, which ``../test_interpreter.py`` starts.

Triton asks whether to interpret a kernel when that is defined, and an operator of torch can be defined only
once in a process. All other tests need kernels that are not interpreted.
"""

import os

import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture
def launches(monkeypatch):
    """Names of the kernels that run."""
    from cbam_lightning.attention.fused.kernels import program

    started, launch = [], program.launch

    def start(kernel, *args, **constants):
        started.append(kernel.__name__)
        launch(kernel, *args, **constants)

    monkeypatch.setattr(program, "launch", start)
    return started
