"""Nothing of Triton is imported where no kernel runs, nor needed where there is none."""

import subprocess
import sys

PROGRAM = """
import importlib.util, sys
import torch
if {hidden}:
    find = importlib.util.find_spec
    importlib.util.find_spec = lambda name, *rest: None if name == "triton" else find(name, *rest)
    sys.modules["triton"] = None
def imported():
    return {{name for name in sys.modules if name.split(".")[0] == "triton" and sys.modules[name]}}
torch.nn.Conv2d(2, 2, 1)(torch.zeros(1, 2, 3, 3)).sum().backward()
before = imported()
import cbam_lightning
from cbam_lightning.attention import CBAM, SqueezeExcite
from cbam_lightning.attention.implementation import has_kernels
from cbam_lightning.models.resnet import BasicBlock
block = BasicBlock(8, 8, 1)
block.attention = CBAM(8, 2)
x = torch.randn(2, 8, 5, 4)
(block(x) + SqueezeExcite(8, 2)(x)).sum().backward()
assert imported() == before, imported() - before
assert "cbam_lightning.attention.fused.kernels" not in sys.modules
assert has_kernels("cuda") != {hidden}
"""


def run(hidden):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(hidden=hidden)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_cpu_imports_nothing_of_it():
    run(hidden=False)


def test_without_it_everything_else_works():
    run(hidden=True)
