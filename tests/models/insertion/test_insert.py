"""Attention in networks that know nothing of it: it changes no logit, learns, and is saved."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from cbam_lightning.attention.registry import default_placement
from cbam_lightning.errors import UsageError
from cbam_lightning.models import create_model
from cbam_lightning.models.insertion import describe_insertion_points, insert_attention, plan_insertion
from tests.attention.cases import (
    NAMES,
    identity_cases,
    identity_names,
    published,
    refused_identity_cases,
    starts_as_identity,
)
from tests.models.networks import Small, build, build_on_meta, randomise

# The others are larger, or built of the parts of one of these.
QUICK = {
    *("densenet121", "efficientnet_b0", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small"),
    *("regnet_y_400mf", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1"),
    *("timm/convnext_atto", "timm/ghostnet_050", "timm/legacy_seresnet18", "timm/mobilenetv3_small_050"),
    *("timm/regnety_002", "timm/resnet18", "timm/resnext26ts"),
}
TORCHVISION = [
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "resnet18",
    "resnext50_32x4d",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "vgg11_bn",
]


TIMM = [
    "convnext_atto",
    "cspresnet50",
    "densenet121",
    "efficientnet_b0",
    "ghostnet_050",
    "hardcorenas_a",
    "legacy_seresnet18",
    "mobilenetv2_050",
    "mobilenetv3_small_050",
    "regnety_002",
    "resnet18",
    "resnet26d",
    "resnext26ts",
    "selecsls42",
]


# The last variant of each: with 8 channels, the default may leave a single hidden unit, which is dead.
OTHER_OPTIONS = dict(case.values for case in identity_cases(but_none=True))


NETWORKS = [f"torchvision/{name}" for name in TORCHVISION] + [f"timm/{name}" for name in TIMM]


def slow_unless_quick(name):
    is_quick = name.removeprefix("torchvision/") in QUICK
    return pytest.param(name, marks=() if is_quick else pytest.mark.slow)


@pytest.mark.parametrize("name", map(slow_unless_quick, NETWORKS))
def test_identity_insertion_changes_no_logit_learns_and_is_saved(name):
    torch.manual_seed(0)
    network = randomise(build(name)).requires_grad_(False)
    empty = copy.deepcopy(network)
    for parameter in empty.parameters():
        parameter.zero_()
    keys = list(network.state_dict())
    x = torch.randn(2, 3, 64, 64)
    before = network(x)
    # At reduction 16, a few of the narrowest layers have one hidden unit, which may be dead.
    assert insert_attention(network, "cbam", reduction=2) is network
    assert before.isfinite().all()
    assert torch.equal(network(x), before)

    new = {key: value for key, value in network.named_parameters() if value.requires_grad}
    assert list(new)
    assert all(".attention." in key for key in new)
    assert [key for key in network.state_dict() if ".attention." not in key] == keys
    received = set()
    optimizer = torch.optim.Adam(new.values(), lr=0.01)
    weights = torch.randn_like(before)
    for _ in range(3):
        # In the first step the last layer of each gate is 0 and passes no gradient on to those before it.
        optimizer.zero_grad()
        (network(x) * weights).sum().backward()
        assert all(parameter.grad is not None for parameter in new.values())
        received |= {key for key, parameter in new.items() if parameter.grad.any()}
        optimizer.step()
    assert set(new) - received == set()

    after = network(x)
    assert not torch.equal(after, before)
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    insert_attention(empty, "cbam", reduction=2).load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(empty(x), after)


@pytest.mark.parametrize("attention", identity_names())
@pytest.mark.parametrize("where", ["residual", "stage"])
def test_attention_begins_as_the_identity(attention, where):
    torch.manual_seed(0)
    network = randomise(build("torchvision/resnet18"))
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before = network(x)
        count = len(network.state_dict())
        insert_attention(network, attention, where=where)
        assert len(network.state_dict()) > count
        assert torch.equal(network(x), before)


@pytest.mark.parametrize(("attention", "options"), refused_identity_cases())
def test_what_cannot_begin_as_the_identity_says_so_and_goes_in_with_its_published_gate(attention, options):
    torch.manual_seed(0)
    network, x = Small().eval(), torch.randn(2, 2, 6, 6)
    plain, modules, gate = network(x), repr(network), published(attention)["gate"]
    options = {option: value for option, value in options.items() if option != "gate"}
    with pytest.raises(UsageError, match=f"identity.*{gate}") as caught:
        insert_attention(network, attention, **options)
    assert "\n" not in str(caught.value)
    assert repr(network) == modules
    insert_attention(network, attention, gate=gate, **options)
    assert not torch.allclose(network(x), plain)


@pytest.mark.parametrize("attention", [name for name in NAMES if not starts_as_identity(name)])
def test_the_published_gate_changes_the_network_and_learns(attention):
    torch.manual_seed(0)
    network, x = Small().eval(), torch.randn(2, 2, 6, 6)
    plain = network(x)
    insert_attention(network, attention, **published(attention))
    output = network(x)
    assert not torch.allclose(output, plain)
    output.sum().backward()
    assert all(p.grad is not None for name, p in network.named_parameters() if ".attention." in name)


def test_attention_of_stages_goes_after_stages_unless_told_otherwise():
    plan = {
        where: {point.name for point in plan_insertion(Small(), where)} for where in ("residual", "stage")
    }
    assert plan["residual"] != plan["stage"]
    for attention in NAMES:
        network = insert_attention(Small(), attention, **published(attention))
        found = {n.removesuffix(".attention") for n, _ in network.named_modules() if n.endswith(".attention")}
        assert found == plan["stage" if default_placement(attention) == "stage" else "residual"], attention


def test_the_sigmoid_gate_halves_what_it_follows():
    network = insert_attention(Small().double().eval(), "se", where="norm", gate="sigmoid")
    nn.init.zeros_(network.norm.attention.mlp[2].weight)
    x = torch.randn(2, 2, 6, 6, dtype=torch.float64)
    plain = nn.functional.batch_norm(network.stem(x), torch.zeros(8).double(), torch.ones(8).double())
    torch.testing.assert_close(network.norm(network.stem(x)), plain / 2)


def test_none_inserts_nothing():
    network = Small()
    keys = list(network.state_dict())
    assert insert_attention(network, "none") is network
    assert list(network.state_dict()) == keys


def test_weights_of_the_plain_network_fit():
    plain, network = Small().eval(), insert_attention(Small().eval(), "cbam")
    missing = network.load_state_dict(plain.state_dict(), strict=False)
    assert missing.unexpected_keys == []
    assert all(".attention." in key for key in missing.missing_keys)
    x = torch.randn(2, 2, 6, 6)
    assert torch.equal(network(x), plain(x))


@pytest.mark.parametrize(("conv", "positions"), [(nn.Conv1d, (9,)), (nn.Conv3d, (4, 5, 6))])
@pytest.mark.parametrize(("attention", "options"), OTHER_OPTIONS.items())
def test_networks_in_one_and_three_dimensions(conv, positions, attention, options):
    torch.manual_seed(0)
    network = Small(conv).double().eval()
    x = torch.randn(2, 2, *positions, dtype=torch.float64)
    before = network(x)
    insert_attention(network, attention, where="residual", **options)
    assert torch.equal(network(x), before)
    network(x).sum().backward()
    for index in (0, 1):
        new = list(network.blocks[index].conv2.attention.parameters())
        assert all(parameter.grad is not None for parameter in new)
        assert any(parameter.grad.any() for parameter in new)


def test_new_modules_take_dtype_mode_and_device_of_the_network():
    network = Small().to(torch.bfloat16).train()
    network.blocks[1].eval()
    insert_attention(network, "cbam")
    assert {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}
    assert network.blocks[0].conv2.attention.spatial.training
    assert not network.blocks[1].conv2.attention.spatial.training
    on_meta = insert_attention(build_on_meta("torchvision/resnet18"), "cbam")
    assert {parameter.device.type for parameter in on_meta.parameters()} == {"meta"}


@pytest.mark.parametrize("again", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_a_copy_has_attention_of_its_own(again):
    torch.manual_seed(0)
    network = insert_attention(Small().eval(), "se")
    x = torch.randn(2, 2, 6, 6)
    before = network(x)
    copied = again(network)
    assert torch.equal(copied(x), before)
    nn.init.constant_(copied.blocks[0].conv2.attention.mlp[2].bias, 1.0)
    assert not torch.equal(copied(x), before)
    assert torch.equal(network(x), before)


def test_compiled_and_exported_networks_keep_the_attention():
    torch.manual_seed(0)
    network = insert_attention(Small().eval(), "se", gate="sigmoid")
    x = torch.randn(2, 2, 6, 6)
    expected = network(x)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), expected)
    torch.testing.assert_close(torch.export.export(network, (x,)).module()(x), expected)


def test_the_dry_run_is_readable():
    points = plan_insertion(Small(), example=(1, 2, 8, 8))
    assert describe_insertion_points(points) == (
        "blocks.0.conv2  8 channels  8 x 8  residual\nblocks.1.conv2  8 channels  8 x 8  residual"
    )


@pytest.mark.parametrize(
    ("attention", "options", "message"),
    [
        ("cbamm", {}, "Did you mean 'cbam'"),
        ("sagan", {"gate": "sigmoid"}, "unknown sagan option 'gate'"),
        ("cbam", {"gate": "soft"}, "unknown gate 'soft'"),
        ("cbam", {"ratio": 2}, "unknown cbam option 'ratio'"),
        ("cbam", {"were": "layer4"}, "unknown cbam option 'were'. Did you mean 'where'"),
        ("none", {"reduction": 2}, "'none' has no options"),
        ("cbam", {"example": (1, 5, 8, 8)}, r"does not run on an input of shape \(1, 5, 8, 8\)"),
        ("cbam", {"example": "large"}, "pass a tensor, its shape"),
    ],
)
def test_wrong_arguments_leave_the_network_as_it_was(attention, options, message):
    network = Small()
    keys = list(network.state_dict())
    with pytest.raises(UsageError, match=message):
        insert_attention(network, attention, **options)
    assert list(network.state_dict()) == keys


def test_an_insertion_point_is_taken_once():
    network = insert_attention(Small(), "cbam", where="blocks.1.conv2")
    keys = list(network.state_dict())
    with pytest.raises(UsageError, match=r"'blocks.1.conv2' already has an attribute 'attention'"):
        insert_attention(network, "se")
    assert list(network.state_dict()) == keys


def test_a_network_without_insertion_points_is_refused():
    with pytest.raises(UsageError, match="has no insertion point for attention"):
        insert_attention(nn.Conv2d(3, 4, 1), "cbam")


def test_a_network_of_ours_that_takes_attention_itself_says_so():
    network = create_model("resnet8", num_classes=10)
    with (
        pytest.warns(UserWarning, match="after layer2.0: it has an attribute 'attention' of its own"),
        pytest.raises(
            UsageError, match="no insertion point for attention: make it with attention='mhsa', or pass"
        ),
    ):
        insert_attention(network, "mhsa")
