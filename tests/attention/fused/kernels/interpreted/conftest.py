"""These tests run in a process of their own, which ``../test_interpreter.py`` starts.

Triton asks for its interpreter when a kernel is defined, and an operator of torch can be defined only once in
a process. All other tests need kernels that are not interpreted.
"""

import os

if os.environ.get("TRITON_INTERPRET") != "1":
    collect_ignore_glob = ["*.py"]
