"""ResNet against torchvision, the published sizes, and the authors' initial values."""

import copy
import itertools
import pickle

import pytest
import torch
import torchvision

from cbam_lightning.attention import CBAM, create_attention, list_attention
from cbam_lightning.attention.registry import default_placement, option_names
from cbam_lightning.errors import UsageError
from cbam_lightning.models import create_model, list_models
from cbam_lightning.models.resnet import BasicBlock, Block, Bottleneck, ResNet

IN_TORCHVISION = [name for name in list_models() if hasattr(torchvision.models, name)]


def small(block="basic", attention="cbam", **options):
    options = {"depths": (2, 1), "widths": (8, 16), "stem": "cifar", "num_classes": 5} | options
    return ResNet(block, attention=attention, **options)


def randomise(module):
    """Give every parameter and statistic a value that no initialisation gives."""
    for name, value in module.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2)
        elif name.endswith("running_mean") or (value.is_floating_point() and value.dim() == 1):
            value.normal_(0.5, 0.2)
    return module


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d"])
def test_logits_equal_torchvision(name):
    torch.manual_seed(0)
    theirs = randomise(getattr(torchvision.models, name)()).double()
    ours = create_model(name).double()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 32, 40, dtype=torch.float64)
    for training in (False, True):
        expected = theirs.train(training)(x)
        torch.testing.assert_close(ours.train(training)(x), expected, rtol=1e-12, atol=1e-12)
    for key, value in theirs.state_dict().items():  # training has moved the running statistics
        torch.testing.assert_close(ours.state_dict()[key], value, rtol=1e-12, atol=1e-12)


def test_the_list_of_torchvision_networks_is_not_empty():
    assert {"resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d"} == set(
        IN_TORCHVISION
    )


@pytest.mark.parametrize("name", IN_TORCHVISION)
def test_state_dict_is_that_of_torchvision(name):
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)().state_dict()
        ours = create_model(name).state_dict()
    assert [(k, v.shape) for k, v in ours.items()] == [(k, v.shape) for k, v in theirs.items()]


def test_state_dict_keys_of_the_attention():
    keys = create_model("resnet20", attention="cbam").state_dict()
    for anchor in ("channel.mlp.0.weight", "channel.mlp.2.bias", "spatial.conv.weight", "spatial.bn.weight"):
        assert f"layer3.2.attention.{anchor}" in keys
    blocks = {key.split(".attention.")[0] for key in keys if ".attention." in key}
    assert blocks == {f"layer{stage}.{index}" for stage in (1, 2, 3) for index in (0, 1, 2)}


class TestPublishedSizes:
    # Table 6 of https://arxiv.org/abs/1512.03385, whose shortcuts have no parameters.
    @pytest.mark.parametrize(
        ("name", "millions"),
        [("resnet20", 0.27), ("resnet32", 0.46), ("resnet44", 0.66), ("resnet56", 0.85), ("resnet110", 1.7)],
    )
    def test_cifar(self, name, millions):
        with torch.device("meta"):
            network = create_model(name, num_classes=10)
        total = sum(p.numel() for key, p in network.named_parameters() if "downsample" not in key)
        assert round(total / 1e6, 1 if name == "resnet110" else 2) == millions


@pytest.mark.parametrize("attention", list_attention())
@pytest.mark.parametrize("stride", [1, 2])
def test_attention_is_on_the_residual_after_its_last_batchnorm(attention, stride):
    torch.manual_seed(0)
    for block in (BasicBlock(8, 8, stride), Bottleneck(32, 8, stride)):
        block.attention = create_attention(attention, block.out_channels)
        randomise(block).eval()
        x = torch.randn(2, block.conv1.in_channels, 6, 5)
        residual = block.bn2(block.conv2(block.bn1(block.conv1(x)).clamp(min=0)))
        if isinstance(block, Bottleneck):
            residual = block.bn3(block.conv3(residual.clamp(min=0)))
        shortcut = x if stride == 1 else block.downsample[1](block.downsample[0](x))
        expected = (block.attention(residual) + shortcut).clamp(min=0)
        torch.testing.assert_close(block(x), expected)
        assert torch.equal(block.attention(residual), residual) == (attention == "none")


def test_stride_in_the_first_1x1_is_torchvision_with_its_strides_exchanged():
    torch.manual_seed(0)
    theirs = randomise(torchvision.models.resnet50()).double().eval()
    ours = create_model("resnet50", stride_in="1x1").double().eval()
    ours.load_state_dict(theirs.state_dict())
    for stage in (theirs.layer2, theirs.layer3, theirs.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = stage[0].conv2.stride, stage[0].conv1.stride
    x = torch.randn(1, 3, 65, 40, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(create_model("resnet50").double().eval()(x), ours(x))


@pytest.mark.parametrize(("width", "groups", "width_per_group", "inner"), [(64, 32, 4, 128), (24, 3, 48, 54)])
def test_groups_of_a_bottleneck(width, groups, width_per_group, inner):
    block = Bottleneck(16, width, 2, groups=groups, width_per_group=width_per_group)
    assert block.conv1.weight.shape == (inner, 16, 1, 1)
    assert block.conv2.weight.shape == (inner, inner // groups, 3, 3)
    assert block.conv3.weight.shape == (4 * width, inner, 1, 1)


@pytest.mark.parametrize("widen", ["1.5", "2.0"])
def test_a_wide_network_has_wide_stages_behind_the_usual_stem(widen):
    with torch.device("meta"):
        network = create_model(f"wide_resnet18_{widen}")
    assert network.conv1.out_channels == 64
    stages = (network.layer1, network.layer2, network.layer3, network.layer4)
    assert [stage[-1].out_channels / float(widen) for stage in stages] == [64, 128, 256, 512]


class TestPlacement:
    def test_bam_follows_stages_1_to_3(self):
        network = create_model("resnet18_cifar", attention="bam", widths=(16, 32, 64, 128), num_classes=5)
        assert [m.out_channels for m in network.modules() if isinstance(m, Block)][::2] == [16, 32, 64, 128]
        assert {key.split(".")[1] for key in network.state_dict() if key.startswith("attention.")} == {
            "layer1",
            "layer2",
            "layer3",
        }
        assert not any(".attention." in key for key in network.state_dict())
        calls = []
        for name, module in network.named_modules():
            if name.startswith(("layer", "attention.layer")) and name.split(".")[-1].startswith("layer"):
                module.register_forward_hook(lambda _, x, y, name=name: calls.append((name, x[0], y)))
        network.eval()(torch.randn(2, 3, 32, 32))
        names = [name for name, _, _ in calls]
        stages = ["layer1", "layer2", "layer3"]
        assert names == [name for stage in stages for name in (stage, f"attention.{stage}")] + ["layer4"]
        for (_, _, output), (_, following, _) in itertools.pairwise(calls):
            assert following is output

    @pytest.mark.parametrize("attention", [name for name in list_attention() if name != "none"])
    def test_can_be_chosen(self, attention):
        kind = type(create_attention(attention, 8))
        for placement in ("block", "stage"):
            network = small("bottleneck", attention, placement=placement)
            places = {name for name, m in network.named_modules() if type(m) is kind}
            in_blocks = {"layer1.0.attention", "layer1.1.attention", "layer2.0.attention"}
            assert places == (in_blocks if placement == "block" else {"attention.layer1"})
            if placement == default_placement(attention):
                assert small("bottleneck", attention).state_dict().keys() == network.state_dict().keys()


class TestInitialValues:
    @pytest.mark.parametrize("attention", [name for name in list_attention() if name != "none"])
    @pytest.mark.parametrize("block", ["basic", "bottleneck"])
    def test_backbone_is_the_same_with_and_without_attention(self, attention, block):
        torch.manual_seed(7)
        plain = small(block, "none").state_dict()
        torch.manual_seed(7)
        attended = small(block, attention).state_dict()
        assert plain.keys() <= attended.keys()
        for key, value in plain.items():
            assert torch.equal(value, attended[key]), key
        torch.manual_seed(8)
        assert not torch.equal(small(block, "none").conv1.weight, plain["conv1.weight"])

    def test_are_the_authors(self):
        torch.manual_seed(0)
        network = create_model("resnet18", attention="cbam")
        for name, module in network.named_modules():
            if isinstance(module, torch.nn.Conv2d) and module.weight.numel() > 5000:
                fan_out = module.out_channels * module.kernel_size[0] ** 2
                assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05), name
            if isinstance(module, torch.nn.BatchNorm2d):
                assert (module.weight == (0 if ".spatial.bn" in name else 1)).all(), name
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                assert (parameter == 0).all(), name
        assert network.fc.weight.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.01)

    def test_identity_gates_leave_the_logits_of_the_plain_network(self):
        torch.manual_seed(0)
        plain = randomise(small(attention="none"))
        attended = small(attention_options={"gate": "identity"})
        attended.load_state_dict(plain.state_dict(), strict=False)
        x = torch.randn(2, 3, 12, 10)
        for training in (True, False):
            assert torch.equal(attended.train(training)(x), plain.train(training)(x))


class TestSurface:
    def test_classifier_can_be_replaced(self):
        network = small("bottleneck").double()
        x = torch.randn(2, 3, 12, 10, dtype=torch.float64)
        features = network.forward_features(x)
        assert features.shape == (2, network.num_features, 6, 5) == (2, 64, 6, 5)
        pooled = features.sum((2, 3)) / 30
        torch.testing.assert_close(network.forward_head(features, pre_logits=True), pooled)
        logits = pooled @ network.fc.weight.T + network.fc.bias
        torch.testing.assert_close(network.forward_head(features), logits)
        assert network.get_classifier() is network.fc

        network.reset_classifier(7)
        assert network.num_classes == 7
        assert network(x).shape == (2, 7)  # the new layer is float64 as well
        network.reset_classifier(0)
        assert isinstance(network.get_classifier(), torch.nn.Identity)
        assert network.eval()(x).shape == (2, network.num_features)

    def test_no_classes_from_the_start(self):
        network = small(num_classes=0)
        assert network.num_classes == 0
        assert network(torch.randn(2, 3, 12, 10)).shape == (2, 16)

    def test_stems(self):
        x = torch.randn(2, 1, 64, 64)
        for stem, side in (("imagenet", 8), ("cifar", 32), ("stride2", 16)):
            network = small(stem=stem, in_channels=1)
            assert network.in_channels == 1
            assert network.forward_features(x).shape[2:] == (side, side)

    def test_attention_options_reach_every_block(self):
        network = small(attention_options={"reduction": 2, "pools": ["lse"]})
        blocks = [module for module in network.modules() if isinstance(module, Block)]
        assert len(blocks) == 3
        for block in blocks:
            assert isinstance(block.attention, CBAM)
            assert block.attention.channel.pools == ("lse",)
            assert block.attention.channel.mlp[0].out_features == block.out_channels // 2


class TestSurroundings:
    @pytest.mark.parametrize("attention", list_attention())
    @pytest.mark.parametrize("block", ["basic", "bottleneck"])
    def test_every_parameter_receives_a_gradient(self, block, attention):
        torch.manual_seed(0)
        options = {"reduction": 2} if "reduction" in option_names(attention) else {}
        network = randomise(small(block, attention, attention_options=options))
        torch.nn.functional.cross_entropy(network(torch.randn(4, 3, 12, 10)), torch.arange(4)).backward()
        for name, parameter in network.named_parameters():
            assert ".attention." in f".{name}" or parameter.grad.abs().sum() > 0, name
        # some of attention have none on such small maps; its own tests name them
        for module in network.modules():
            if hasattr(module, "gate_maps") and list(module.parameters()):
                assert any(parameter.grad.abs().sum() > 0 for parameter in module.parameters())

    def test_learns_a_batch_by_heart(self):
        torch.manual_seed(0)
        network, x, y = small(), torch.randn(4, 3, 12, 10), torch.arange(4)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
        losses = []
        for _ in range(20):
            loss = torch.nn.functional.cross_entropy(network(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.1 * losses[0]

    @pytest.mark.parametrize(
        "duplicate", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))]
    )
    def test_copies_compute_the_same(self, duplicate):
        network = randomise(small()).eval()
        x = torch.randn(2, 3, 12, 10)
        assert torch.equal(duplicate(network)(x), network(x))

    def test_channels_last_is_kept(self):
        network = randomise(small("bottleneck")).to(memory_format=torch.channels_last).eval()
        x = torch.randn(2, 3, 12, 10)
        features = network.forward_features(x.to(memory_format=torch.channels_last))
        assert features.is_contiguous(memory_format=torch.channels_last)
        assert not features.is_contiguous()
        torch.testing.assert_close(features, network.forward_features(x))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_a_converted_network_works(self, dtype):
        torch.manual_seed(0)
        network = randomise(small()).eval()
        x = torch.randn(2, 3, 12, 10)
        expected = network(x)
        output = network.to(dtype)(x.to(dtype))
        assert output.dtype == dtype
        torch.testing.assert_close(
            output.float(), expected, rtol=0.05, atol=0.05 * expected.abs().max().item()
        )

    @pytest.mark.parametrize(
        "attention",
        # every module is compiled by itself in tests/attention
        [pytest.param(name, marks=pytest.mark.slow if name != "cbam" else ()) for name in list_attention()],
    )
    def test_compiles_to_one_graph_under_autocast(self, attention):
        torch.compiler.reset()
        network = randomise(small(attention=attention, depths=(1, 1)))
        x = torch.randn(2, 3, 12, 10)
        compiled = torch.compile(copy.deepcopy(network), backend="eager", fullgraph=True)
        for training in (True, False):
            found, expected = [], []
            for each, results in ((compiled, found), (network, expected)):
                each.train(training)
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    results.append(each(x))
                results += torch.autograd.grad(results[0].float().square().sum(), list(each.parameters()))
            assert all(map(torch.equal, found, expected))
        assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": "botleneck"}, "unknown block 'botleneck'. Did you mean 'bottleneck'"),
        ({"stem": "tiny"}, "unknown stem 'tiny'. Allowed: cifar, imagenet, stride2"),
        ({"depths": (2, 2, 2)}, r"depths is \(2, 2, 2\) and widths is \(8, 16\); give both one number"),
        ({"depths": (), "widths": ()}, "one number for each stage"),
        ({"depths": (2, 0)}, "every one of depths is 0"),
        ({"widths": (8, -1)}, "every one of widths is -1"),
        ({"num_classes": -1}, "num_classes is -1; give the number of classes, or 0"),
        ({"groups": 2}, "groups is 2, .* but block is 'basic', and only bottlenecks"),
        ({"stride_in": "1x1"}, "only bottlenecks"),
        ({"width_per_group": 4}, "only bottlenecks"),
        ({"block": "bottleneck", "stride_in": "2x2"}, "unknown stride_in '2x2'. Allowed: 1x1, 3x3"),
        ({"block": "bottleneck", "groups": 0}, "groups is 0"),
        ({"block": "bottleneck", "width_per_group": 4}, "the channels of a group, is 0"),
        ({"stem_width": 0}, "stem_width is 0; give a whole number"),
        ({"placement": "blocks"}, "unknown placement 'blocks'. Did you mean 'block'"),
        (
            {"placement": "stage", "depths": (2,), "widths": (8,)},
            "after every stage but the last, and .* one",
        ),
        ({"in_channels": 0}, "in_channels is 0; give a whole number of at least 1"),
        ({"attention": "cbma"}, "unknown attention 'cbma'"),
        ({"attention": ""}, "unknown attention ''"),
        ({"attention_options": {"ratio": 8}}, "unknown cbam option 'ratio'"),
        ({"attention": "none", "attention_options": {"reduction": 8}}, "'none' has no options"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(UsageError, match=message):
        small(**options)
