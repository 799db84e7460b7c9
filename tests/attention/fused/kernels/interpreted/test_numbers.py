"""The kernels against the reference in float64: output, gradients, running statistics."""

import pytest
import torch
from hypothesis import given, settings
from torch import nn

from tests.attention.fused.comparing import ARRANGEMENTS, create
from tests.attention.fused.kernels.interpreted.cases import create_end, ends, feature_maps, modules
from tests.attention.fused.kernels.interpreted.comparing import assert_equals_reference

EVERY = [*ARRANGEMENTS, "se"]
few = settings(derandomize=True, deadline=None, max_examples=20)
many = settings(derandomize=True, deadline=None, max_examples=400)


@few
@given(modules())
def test_equals_the_reference(drawn):
    module, how = drawn
    assert_equals_reference(module, *feature_maps(module, **how))


@few
@given(ends())
def test_the_end_of_a_block_equals_the_reference(drawn):
    end, how = drawn
    assert_equals_reference(end, *feature_maps(end, **how))


@pytest.mark.slow
@many
@given(modules())
def test_equals_the_reference_in_many_cases(drawn):
    module, how = drawn
    assert_equals_reference(module, *feature_maps(module, **how))


@pytest.mark.slow
@many
@given(ends())
def test_the_end_of_a_block_equals_the_reference_in_many_cases(drawn):
    end, how = drawn
    assert_equals_reference(end, *feature_maps(end, **how))
