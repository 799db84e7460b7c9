"""The passes run uncompiled; only ``test_compiling.py`` compiles them."""

import pytest
import torch


@pytest.fixture
def uncompiled():
    with torch.compiler.set_stance("force_eager"):
        yield
