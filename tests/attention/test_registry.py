"""Attention by name."""

import inspect

import pytest
import torch

from cbam_lightning.attention import create_attention, list_attention
from cbam_lightning.attention.registry import default_placement, option_defaults, option_names
from cbam_lightning.errors import UsageError

WITH_OPTIONS = [name for name in list_attention() if name != "none"]


def test_names():
    assert list_attention() == sorted(list_attention())
    assert list_attention() == ["bam", "cbam", "eca", "none", "sagan", "se"]


@pytest.mark.parametrize("name", list_attention())
def test_keeps_the_shape_and_passes_gradients(name):
    x = torch.randn(2, 16, 6, 5, requires_grad=True)
    module = create_attention(name, 16)
    output = module(x)
    output.sum().backward()
    assert output.shape == x.shape
    assert x.grad.abs().sum() > 0
    assert torch.equal(output, x) == (name in ("none", "sagan"))  # SAGAN's residual starts at a scale of 0
    assert all(parameter.grad is not None for parameter in module.parameters())


@pytest.mark.parametrize("name", WITH_OPTIONS)
def test_first_argument_is_the_number_of_channels(name):
    assert next(iter(inspect.signature(type(create_attention(name, 8))).parameters)) == "channels"


@pytest.mark.parametrize("name", WITH_OPTIONS)
def test_option_names_are_what_the_class_accepts(name):
    module = create_attention(name, 8)
    assert {"channels", *option_names(name)} == set(inspect.signature(type(module)).parameters)


@pytest.mark.parametrize("name", list_attention())
def test_option_defaults_build_the_default(name):
    defaults = option_defaults(name)
    assert defaults.keys() == option_names(name)
    torch.manual_seed(0)
    expected = create_attention(name, 8)
    torch.manual_seed(0)
    assert repr(create_attention(name, 8, **defaults)) == repr(expected)


def test_papers_that_put_attention_between_stages():
    places = {name: default_placement(name) for name in list_attention()}
    assert {name for name, place in places.items() if place == "stage"} == {"bam", "sagan"}


@pytest.mark.parametrize("name", WITH_OPTIONS)
def test_options_reach_the_module(name):
    def size(value):
        return sum(p.numel() for p in create_attention(name, 64, **{option: value}).parameters())

    option, large, small = ("kernel_size", 9, 3) if name == "eca" else ("reduction", 2, 32)
    assert size(large) > size(small)


def test_an_unknown_name_is_refused():
    with pytest.raises(
        UsageError, match=r"unknown attention 'cbma'\. Did you mean 'cbam'\? Allowed: .*none, sagan, se"
    ):
        create_attention("cbma", 8)


@pytest.mark.parametrize("name", WITH_OPTIONS)
def test_an_unknown_option_is_refused(name):
    option, typo = ("kernel_size", "kernel_sise") if name == "eca" else ("reduction", "reductoin")
    match = rf"unknown {name} option '{typo}'\. Did you mean '{option}'\? Allowed: {min(option_names(name))}"
    with pytest.raises(UsageError, match=match) as error:
        create_attention(name, 8, **{typo: 4})
    assert "channels" not in str(error.value)


def test_none_refuses_options():
    with pytest.raises(UsageError, match=r"'none' has no options, but was given gate, reduction.*cbam"):
        create_attention("none", 8, reduction=4, gate="sigmoid")
