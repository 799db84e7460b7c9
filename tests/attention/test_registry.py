"""Attention by name."""

import inspect
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from cbam_lightning import attention, create_model, insert_attention
from cbam_lightning.attention import create_attention, list_attention, register_attention, registry
from cbam_lightning.attention.registry import (
    build_attention,
    can_start_as_identity,
    default_placement,
    describe_attention,
    option_defaults,
    option_names,
)
from cbam_lightning.errors import UsageError
from cbam_lightning.models.detection import create_detector
from tests.attention.cases import NAMES, identity_names, other_values, variants, works


def test_names():
    assert list_attention() == sorted(list_attention())
    assert {"cbam", "none"} < {*list_attention()}


@pytest.mark.parametrize("name", NAMES)
def test_classes_can_be_imported_from_the_package(name):
    kind = type(create_attention(name, 8))
    assert getattr(attention, kind.__name__) is kind
    assert kind.__name__ in attention.__all__


@pytest.mark.parametrize("name", list_attention())
def test_keeps_the_shape_and_passes_gradients(name):
    x = torch.randn(2, 16, 6, 5, requires_grad=True)
    module = create_attention(name, 16)
    output = module(x)
    output.sum().backward()
    assert output.shape == x.shape
    assert x.grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in module.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_the_documentation_begins_with_a_formula(name):
    assert re.search(r"\bx [*+] .*[.]$", describe_attention()[name])


@pytest.mark.parametrize("name", NAMES)
def test_first_argument_is_the_number_of_channels(name):
    assert next(iter(inspect.signature(type(create_attention(name, 8))).parameters)) == "channels"


@pytest.mark.parametrize("name", NAMES)
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


@pytest.mark.parametrize("name", NAMES)
def test_options_reach_the_module(name):
    def shown(options):
        modules = [create_attention(name, channels, **options) for channels in (56, 64)]
        return [(repr(m), [(key, v.shape) for key, v in m.state_dict().items()]) for m in modules]

    alone = [{o: value} for o in option_names(name) - {"dims"} for value in other_values(name, o)]
    entries = [entry for entry in (*variants(name), *alone) if works(name, entry)]
    for option in {option for entry in entries for option in entry}:
        rest = [{o: v for o, v in entry.items() if o != option} for entry in entries]
        assert any(
            shown(entry) != shown(without)
            for entry, without in zip(entries, rest, strict=True)
            if works(name, without)
        ), f"{option} leaves no trace"


def test_whether_attention_can_start_as_the_identity_is_tried_without_a_random_number():
    gated = [name for name in identity_names() if "gate" in option_names(name)]
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    assert [name for name in list_attention() if can_start_as_identity(name, {})] == gated
    assert can_start_as_identity("ge", {"excite": "mlp"})
    assert torch.equal(torch.rand(3), expected)


def test_an_unknown_name_is_refused():
    with pytest.raises(
        UsageError, match=r"unknown attention .cbma.\. Did you mean .cbam.\? Allowed: .*cbam, .*none, .*se"
    ):
        create_attention("cbma", 8)


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_option_is_refused(name):
    option = max(option_names(name), key=len)
    typo = option[:-2] + option[:-3:-1]
    match = rf"unknown {name} option '{typo}'\. Did you mean '{option}'\? Allowed: {min(option_names(name))}"
    with pytest.raises(UsageError, match=match) as error:
        create_attention(name, 8, **{typo: 4})
    assert "channels" not in str(error.value)


def test_none_refuses_options():
    with pytest.raises(UsageError, match=r"'none' has no options, but was given gate, reduction.*cbam"):
        create_attention("none", 8, reduction=4, gate="sigmoid")


class Halved(nn.Module):
    def __init__(self, channels, keep: float = 0.5, dims: int = 2):
        super().__init__()
        self.keep = keep

    def forward(self, x):
        return self.keep * x


OWN = f"{__name__}.Halved"


@pytest.fixture
def own_table(monkeypatch):
    monkeypatch.setattr(registry, "_ATTENTION", dict(registry._ATTENTION))


def test_a_class_of_the_user_has_a_name(own_table):
    register_attention("halved", Halved, placement="stage")
    register_attention("halved", Halved)  # run again in a notebook, with another placement
    assert "halved" in list_attention()
    assert default_placement("halved") == "block"
    assert option_names("halved") == {"keep", "dims"}
    assert option_defaults("halved") == {"keep": 0.5, "dims": 2}
    x = torch.randn(2, 8, 5, 5)
    assert torch.equal(create_attention("halved", 8, keep=0.25)(x), 0.25 * x)


def test_the_decorator_returns_what_it_names(own_table):
    @register_attention("doubled", placement="stage")
    class Doubled(nn.Module):
        def __init__(self, channels):
            super().__init__()

        def forward(self, x):
            return 2 * x

    assert isinstance(create_attention("doubled", 4), Doubled)
    assert default_placement("doubled") == "stage"


@pytest.mark.parametrize("network", ["resnet8", "torchvision/resnet18"])
def test_a_class_path_goes_into_networks_like_a_name(network):
    options = {"keep": 1.0}
    built = create_model(network, attention=OWN, attention_options=options, num_classes=3).eval()
    places = [m for m in built.modules() if isinstance(m, Halved)]
    assert len(places) == (3 if network == "resnet8" else 8)
    torch.manual_seed(0)
    plain = create_model(network, num_classes=3).eval()
    torch.manual_seed(0)
    built = create_model(network, attention=OWN, attention_options=options, num_classes=3).eval()
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(built(x), plain(x))


def test_a_class_path_goes_into_any_network_and_into_a_detector():
    network = insert_attention(
        nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Conv1d(4, 1, 1)), OWN, where="0", example=(1, 2, 16)
    )
    assert isinstance(network[0].attention, Halved)
    detector = create_detector("ssd_resnet8", attention=OWN, num_classes=3, in_channels=1)
    assert sum(isinstance(module, Halved) for module in detector.modules()) >= 2


@pytest.mark.parametrize("name", ["", "a.b", "a/b", "cbam", "none", "halved"])
def test_a_name_that_is_taken_or_none(own_table, name):
    register_attention("halved", Halved)
    with pytest.raises(UsageError, match=r"is empty, has a dot or a slash, or is taken\. Choose a name"):
        register_attention(name, nn.Identity)


class NoChannels(nn.Module):
    def __init__(self, inp, oup):
        super().__init__()


class Shrinks(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.pool = nn.MaxPool2d(2)

    def forward(self, x):
        return self.pool(x)


class Long(nn.Module):
    """Takes (N, C, L) alone."""

    def __init__(self, channels, dims=1):
        super().__init__()
        self.layer = nn.Conv1d(channels, channels, 1)

    def forward(self, x):
        return self.layer(x).relu() if x.ndim == 3 else x.flatten(2)


class NeedsOption(nn.Module):
    def __init__(self, channels, size):
        super().__init__()


def gives_nothing(channels):
    return 3


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (NoChannels, r"takes \(inp, oup\); its first argument has to be called channels"),
        (
            Shrinks,
            r"turns \(2, 16, 8, 8\) into \(2, 16, 4, 4\); its output has to have the shape",
        ),
        (NeedsOption, "needs size in attention_options"),
        (dict, "is not a torch.nn.Module"),
    ],
)
def test_what_is_no_attention_is_refused_when_the_network_is_built(given, match, monkeypatch):
    monkeypatch.setattr(f"{__name__}.Given", given, raising=False)
    with pytest.raises(UsageError, match=match):
        create_model("resnet8", attention=f"{__name__}.Given")


def test_what_is_no_attention_is_refused_by_its_name(own_table):
    with pytest.raises(UsageError, match="its first argument has to be called channels"):
        register_attention("odd", NoChannels)
    register_attention("nothing", gives_nothing)
    with pytest.raises(UsageError, match=r"returned int, not a torch\.nn\.Module"):
        create_attention("nothing", 8)


def test_a_module_is_tried_with_its_own_number_of_dimensions(own_table):
    register_attention("long", Long)
    assert create_attention("long", 8)(torch.ones(2, 8, 5)).shape == (2, 8, 5)
    for dims in ("2", 4):
        with pytest.raises(UsageError, match=f"dims is {dims!r}; give the number of position dimensions"):
            create_attention("long", 8, dims=dims)


def test_a_module_that_fails_in_its_own_way_is_not_said_to_start_as_the_identity(own_table):
    class Grouped(nn.Module):
        def __init__(self, channels, gate="sigmoid"):
            super().__init__()
            self.layer = nn.Conv2d(channels, channels, 1, groups=48)

    register_attention("grouped", Grouped)
    assert not registry.can_start_as_identity("grouped", {})


def test_a_class_that_nobody_imported_is_not_imported_for_a_checkpoint(monkeypatch):
    monkeypatch.syspath_prepend(".")
    Path("lies_around.py").write_text("from torch.nn import Identity as A\n")
    with pytest.raises(UsageError, match="a class that is not imported: --imports lies_around"):
        build_attention("lies_around.A", 8)
    assert "lies_around" not in sys.modules


def test_trying_a_module_changes_no_random_number_and_no_statistics():
    class Drawing(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.norm = nn.BatchNorm2d(channels)

        def forward(self, x):
            return self.norm(x) + torch.rand(())

    registered = dict(registry._ATTENTION)
    try:
        register_attention("drawing", Drawing)
        torch.manual_seed(0)
        create_attention("se", 8)
        expected = torch.rand(3)
        torch.manual_seed(0)
        module = create_attention("drawing", 8)
        assert torch.equal(torch.rand(3), expected)
        assert module.training
        assert int(module.norm.num_batches_tracked) == 0
    finally:
        registry._ATTENTION.clear()
        registry._ATTENTION.update(registered)
