"""How often the kernels read or write the map, counted element by element."""

import math

import numpy as np
import pytest
import torch
from triton.runtime import interpreter

from tests.attention.fused.comparing import as_fused, create
from tests.attention.fused.kernels.interpreted.cases import create_end, feature_maps
from tests.attention.fused.kernels.interpreted.comparing import cotangent

# Reads and writes of the map, forward and backward. A plain block's end has 14: its BatchNorm 3 and 5, its
# addition and ReLU 3 and 3.
PASSES = {
    "end with channel-spatial": (5, 9),
    "end with channel": (4, 7),
    "end with se": (4, 7),
    "channel-spatial": (4, 7),
    "spatial-channel": (4, 7),
    "parallel": (4, 7),
    "channel": (3, 5),
    "se": (3, 5),
    "spatial": (3, 5),
}
SHAPE = (2, 8, 9, 8)


class Traffic:
    """Counts the elements of bfloat16 that are read or written; all but the map and its like is float32."""

    def __init__(self, monkeypatch):
        self.elements = 0
        for name in ("create_masked_load", "create_masked_store"):
            monkeypatch.setattr(interpreter.interpreter_builder, name, self._counted(name))

    def _counted(self, name):
        plain = getattr(interpreter.interpreter_builder, name)

        def run(pointers, *args):
            mask = args[0] if name.endswith("load") else args[1]
            if str(pointers.get_element_ty()) == "bf16":
                self.elements += int(np.count_nonzero(mask.data))
            return plain(pointers, *args)

        return run

    def passes(self):
        """Return the passes over the map since the last call.

        In training, a BatchNorm's pivot is the mean of 16 positions of an image, which is less than a pass.
        """
        counted, self.elements = self.elements / torch.Size(SHAPE).numel(), 0
        return math.floor(counted)


@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("name", PASSES)
def test_passes_over_the_map(name, layout, monkeypatch):
    arrangement = name.removeprefix("end with ")
    module = create(arrangement).float() if arrangement == name else create_end(arrangement, SHAPE[1])
    maps = feature_maps(module, SHAPE, layout=layout, dtype=torch.bfloat16)
    traffic = Traffic(monkeypatch)
    output = as_fused(module)(*maps)
    forward = traffic.passes()
    output.backward(cotangent(output))
    assert (forward, traffic.passes()) == PASSES[name]
