"""Key names of others, and what their values become."""

import math

import pytest
import timm
import torch
from timm.layers import EcaModule, EffectiveSEModule, GatherExcite, GlobalContext, SEModule
from timm.layers.cbam import CbamModule
from torchvision.models import densenet121

from cbam_lightning.attention import CBAM, create_attention
from cbam_lightning.errors import UsageError
from cbam_lightning.weights import from_authors, identify, implied_options, translate
from cbam_lightning.weights.translate import complete
from tests.weights import layouts


@pytest.fixture
def x():
    return torch.randn(3, 32, 9, 11, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def loaded(module, state_dict):
    module.double().eval().load_state_dict(state_dict)
    return module


def close(ours, theirs):
    assert theirs.std() > 1e-3
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("wrapper", ["", "module."])
def test_a_lone_cbam_of_the_authors_computes_the_same(x, wrapper):
    raw = layouts.Writer()
    raw.authors_cbam("", 32)
    state = from_authors({wrapper + key: value for key, value in raw.items()})
    close(loaded(CBAM(32), state)(x), layouts.authors_cbam_forward(raw, "", x))


def test_a_lone_cbam_of_the_authors_without_its_spatial_half_computes_the_same(x):
    raw = layouts.Writer()
    raw.authors_cbam("", 32, spatial=False)
    ours = loaded(CBAM(32, arrangement="channel"), from_authors(raw))
    close(ours(x), layouts.authors_cbam_forward(raw, "", x))


def test_a_lone_bam_of_the_authors_computes_the_same(x):
    raw = layouts.Writer()
    raw.authors_bam("", 32)
    close(loaded(create_attention("bam", 32), from_authors(raw))(x), layouts.authors_bam_forward(raw, "", x))


@pytest.mark.parametrize("names", [("fc1", "fc2"), ("fc.0", "fc.2")])
def test_a_lone_module_of_luuuyi_computes_the_same(x, names):
    raw = layouts.Writer()
    raw.luuuyi("", 32, names)
    layout, state = translate(raw)
    assert layout == "luuuyi"
    close(loaded(CBAM(32), state)(x), layouts.luuuyi_forward(raw, "", x, names))


def test_the_added_batch_norm_is_the_identity_bit_for_bit_up_to_rounding(x):
    raw = layouts.Writer()
    raw.luuuyi("", 32)
    bn = loaded(CBAM(32), translate(raw)[1]).spatial.bn
    torch.testing.assert_close(bn(x[:, :1]), x[:, :1], rtol=1e-15, atol=0)
    assert bn.weight.item() == math.sqrt(1 + bn.eps)


@pytest.mark.parametrize("bias", [False, True])
def test_a_lone_module_of_timm_computes_the_same(x, bias):
    torch.manual_seed(0)
    theirs = CbamModule(32, mlp_bias=bias).double().eval()
    for value in (*theirs.spatial.conv.bn.parameters(), theirs.spatial.conv.bn.running_var):
        torch.nn.init.uniform_(value, 0.5, 1.5)
    layout, state = translate(theirs.state_dict())
    assert layout == "timm"
    close(loaded(CBAM(32, reduction=16), state)(x), theirs(x.clone()))


@pytest.mark.usefixtures("gather_excite_of_timm")
@pytest.mark.parametrize(
    ("layer", "name", "options"),
    [
        (SEModule(32), "se", {"divisor": 8}),
        (SEModule(32, bias=False, rd_channels=4), "se", {"reduction": 8}),
        (EcaModule(32), "eca", {}),
        (EffectiveSEModule(32), "ese", {}),
        (EffectiveSEModule(32, gate_layer="sigmoid"), "ese", {"gate": "sigmoid"}),
        (GlobalContext(32), "gc", {"reduction": 8}),
        (GlobalContext(32, fuse_add=True, fuse_scale=False), "gc", {"reduction": 8}),
        (lambda: GatherExcite(32), "ge", {}),
        (lambda: GatherExcite(32, extra_params=True, extent=4, rd_ratio=1 / 4), "ge", {"reduction": 4}),
    ],
)
def test_a_lone_module_of_timm_computes_the_same_with_what_its_keys_imply(x, layer, name, options):
    torch.manual_seed(0)
    theirs = (layer if isinstance(layer, torch.nn.Module) else layer()).double().eval()
    for value in theirs.state_dict().values():
        if value.is_floating_point():
            torch.nn.init.uniform_(value, 0.1, 0.9)
    layout, state = translate(theirs.state_dict())
    assert layout == "timm"
    ours = create_attention(name, 32, **options, **implied_options(theirs.state_dict()))
    close(loaded(ours, state)(x), theirs(x.clone()))


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (
            {"gather.conv1.weight": torch.ones(8, 1, 7, 7)},
            "gather.conv1.weight belongs .* slides over padding",
        ),
        ({"spatial.conv.conv.weight": torch.ones(1, 1, 7, 7)}, "lcbam adds its pools"),
    ],
)
def test_a_lone_module_of_timm_that_is_not_ours_is_refused(state, reason):
    with pytest.raises(UsageError, match=reason):
        translate(state)


def test_the_tensors_of_the_authors_are_not_copied():
    raw = layouts.authors("CBAM")
    state = from_authors(raw)
    weight = "layer2.1.attention.channel.mlp.2.weight"
    assert state[weight] is raw["layer2.1.cbam.ChannelGate.mlp.3.weight"]
    assert len(state) == len(raw)
    assert not [key for key in state if "Gate" in key or "cbam" in key]


def test_every_name_of_bam_is_translated():
    raw = {key: value for key, value in layouts.authors("BAM").items() if key.startswith("bam2.")}
    assert {key.removesuffix(".weight") for key in from_authors(raw) if key.endswith("weight")} == {
        f"attention.layer2.{name}"
        for name in (
            *("channel.fc1", "channel.bn", "channel.fc2", "spatial.reduce", "spatial.reduce_bn"),
            *("spatial.conv1", "spatial.bn1", "spatial.conv2", "spatial.bn2", "spatial.final"),
        )
    }


@pytest.mark.parametrize(
    ("make", "layout"),
    [
        (lambda: layouts.authors("CBAM"), "authors"),
        (lambda: layouts.authors("BAM"), "authors"),
        (lambda: layouts.authors("none"), "torchvision"),
        (layouts.luuuyi, "luuuyi"),
        (lambda: timm.create_model("seresnet18").state_dict(), "timm"),
        (lambda: timm.create_model("resnet18").state_dict(), "torchvision"),
        (lambda: CBAM(32).state_dict(), "cbam_lightning"),
    ],
)
def test_the_layout_is_found_out(make, layout):
    state = make()
    assert identify(state) == layout
    assert identify({f"module.{key}": value for key, value in state.items()}) == layout


def test_our_own_names_stay():
    state = CBAM(32).state_dict()
    assert translate(state)[1] == state


def test_two_layouts_in_one_file_are_refused():
    with pytest.raises(
        UsageError, match=r"mix layouts: of the authors of CBAM and BAM and of luuuyi/CBAM.PyTorch"
    ):
        translate(layouts.authors("CBAM") | layouts.luuuyi())


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("rpn.head.conv.0.0.weight", r"object detector \(rpn.head"),
        ("backbone.body.conv1.weight", "object detector"),
        ("features.0.weight", "unknown: features.0.weight"),
        ("encoder.layers.0.weight", "unknown: encoder.layers.0.weight"),
    ],
)
def test_keys_of_other_things_are_refused_with_the_reason(key, reason):
    with pytest.raises(UsageError, match=reason):
        translate({key: torch.ones(2)})


def test_no_keys_at_all_are_refused():
    with pytest.raises(UsageError, match="layout of the keys"):
        translate({})


def test_from_authors_takes_no_other_layout():
    with pytest.raises(UsageError, match="those of luuuyi"):
        from_authors(layouts.luuuyi())


def test_two_versions_of_a_layer_are_refused():
    raw = layouts.Writer()
    raw.luuuyi("", 32)
    raw.luuuyi("", 32, ("fc.0", "fc.2"))
    with pytest.raises(UsageError, match="mixes two versions"):
        translate(raw)


def test_files_without_batch_counters_get_them():
    raw = {k: v for k, v in layouts.authors("CBAM").items() if "num_batches" not in k}
    state = from_authors(raw)
    assert set(state) == set(from_authors(layouts.authors("CBAM")))
    assert state["bn1.num_batches_tracked"].item() == 0
    assert state["bn1.num_batches_tracked"].dtype == torch.int64


def test_stored_densenets_get_the_names_of_the_network():
    state = densenet121().state_dict()
    stored = {
        key.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): value
        for key, value in state.items()
        if "num_batches" not in key
    }
    assert stored.keys() - state.keys()
    assert complete(stored).keys() == state.keys()
