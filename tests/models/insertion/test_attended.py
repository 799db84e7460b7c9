"""Attention stays where it was put, whatever becomes of the network, and runs once in a forward pass."""

import copy
import pickle
import warnings

import pytest
import torch
from pytorch_lightning.plugins.layer_sync import TorchSyncBatchNorm
from torch import nn
from torch.fx.experimental.optimization import fuse
from torch.nn.utils import parametrizations
from torch.optim.swa_utils import AveragedModel
from torchvision.models.resnet import BasicBlock, ResNet

from cbam_lightning.models.insertion import insert_attention
from cbam_lightning.models.insertion.attended import Attended
from cbam_lightning.models.sync_batch_norm import revert_batch_norm, synchronise_batch_norm
from tests.attention.cases import NAMES, published
from tests.models.networks import randomise

timm = pytest.importorskip("timm")


def resnet():
    torch.manual_seed(0)
    return randomise(ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5))


def attended_resnet(**options):
    return insert_attention(resnet(), "cbam", gate="sigmoid", **options).eval()


def calls(network, x):
    """Return the output, and how often each inserted attention ran."""
    count = {}
    hosts = {name: module for name, module in network.named_modules() if isinstance(module, Attended)}
    hooks = [
        host.attention.register_forward_hook(
            lambda *_, name=name: count.update({name: count.get(name, 0) + 1})
        )
        for name, host in hosts.items()
    ]
    with torch.no_grad():
        output = network(x)
    for hook in hooks:
        hook.remove()
    return output, list(count.values())


CHANGES = {
    "torch's SyncBatchNorm": nn.SyncBatchNorm.convert_sync_batchnorm,
    "torch's and back": lambda n: TorchSyncBatchNorm().revert(nn.SyncBatchNorm.convert_sync_batchnorm(n)),
    "Lightning's SyncBatchNorm": lambda n: TorchSyncBatchNorm().apply(n),
    "timm's SyncBatchNorm": timm.layers.convert_sync_batchnorm,
    "ours": synchronise_batch_norm,
    "ours and back": lambda n: revert_batch_norm(synchronise_batch_norm(n)),
    "ours in a pickle": lambda n: pickle.loads(pickle.dumps(synchronise_batch_norm(n))),
    "freeze_batch_norm_2d": timm.layers.freeze_batch_norm_2d,
    "freeze and unfreeze": lambda n: timm.layers.unfreeze_batch_norm_2d(timm.layers.freeze_batch_norm_2d(n)),
    "timm's fuse": timm.utils.reparameterize_model,
    "fx trace": torch.fx.symbolic_trace,
    "fx fuse": fuse,
    "deepcopy": copy.deepcopy,
    "pickle": lambda n: pickle.loads(pickle.dumps(n)),
    "average": AveragedModel,
    "timm's average": timm.utils.ModelEmaV3,
    "compile": lambda n: torch.compile(n, backend="eager", fullgraph=True),
    "jit.trace": None,
    "export": None,
    "weight norm": lambda n: (
        [parametrizations.weight_norm(m) for m in n.modules() if isinstance(m, nn.Conv2d)] and n
    ),
}


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("where", ["residual", "stage"])
def test_attention_survives_what_becomes_of_the_network(change, where):
    network, x = attended_resnet(where=where), torch.randn(2, 3, 64, 64)
    expected, before = calls(network, x)
    assert before == [1] * (4 if where == "residual" else 5)
    if change == "jit.trace":
        torch.testing.assert_close(torch.jit.trace(network, x)(x), expected)
    elif change == "export":
        torch.testing.assert_close(torch.export.export(network, (x,)).module()(x), expected)
    else:
        output, after = calls(CHANGES[change](network).eval(), x)
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)
        assert after == before


@pytest.mark.parametrize("replacement", [nn.Identity, nn.SiLU])
def test_attention_goes_over_to_what_replaces_its_module(replacement):
    network = insert_attention(resnet(), "se", where="layer4.0.bn2")
    attention = network.layer4[0].bn2.attention
    network.layer4[0].bn2 = replacement()
    assert network.layer4[0].bn2.attention is attention
    assert calls(network, torch.randn(1, 3, 64, 64))[1] == [1]


def test_a_wrapper_around_the_module_leaves_attention_inside():
    network = insert_attention(resnet(), "se", where="layer4.0.bn2", gate="sigmoid")
    x = torch.randn(1, 3, 64, 64)
    expected = network(x)
    network.layer4[0].bn2 = nn.Sequential(network.layer4[0].bn2)
    output, after = calls(network, x)
    assert torch.equal(output, expected)
    assert after == [1]


def test_a_list_of_modules_keeps_its_own_last_one():
    network = attended_resnet(where="stage")
    assert [type(block).__name__ for block in network.layer4] == ["BasicBlock"]
    assert type(network.layer4[-1]).__mro__[2] is BasicBlock
    assert list(network.layer4[-1].attention.state_dict())
    x = torch.randn(1, 3, 64, 64)
    body = nn.Sequential(
        *list(network.children())[:-1], nn.Flatten(), network.fc
    )  # the usual way to cut off heads
    with torch.no_grad():
        assert torch.equal(body(x), network(x))


@pytest.mark.parametrize("given", ["the network", "the compiled one"])
def test_a_network_that_was_compiled_and_called_gets_attention(given):
    torch.manual_seed(0)
    network = resnet()
    compiled, x = torch.compile(network, backend="eager"), torch.randn(2, 3, 64, 64)
    plain = compiled(x)
    assert (
        insert_attention(network if given == "the network" else compiled, "cbam", gate="sigmoid") is not None
    )
    expected = network(x)
    assert not torch.allclose(expected, plain)
    torch.testing.assert_close(compiled(x), expected)
    compiled(x).sum().backward()
    new = [p for name, p in network.named_parameters() if ".attention." in name]
    assert all(parameter.grad is not None for parameter in new)


def test_a_module_compiled_in_place_gets_attention():
    network, x = resnet(), torch.randn(2, 3, 64, 64)
    network.compile(backend="eager")
    plain = network(x)
    insert_attention(network, "cbam", gate="sigmoid")
    assert not torch.allclose(network(x), plain)
    assert "_compiled_call_impl" in vars(network)


@pytest.mark.parametrize("attention", NAMES)
def test_channels_last_maps_are_attended_over_their_channels(attention):
    """The literal formula: permute, attend, permute back."""

    class ChannelsLast(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.mlp, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x):
            x = self.stem(x).permute(0, 2, 3, 1)
            return self.head((x + self.mlp(x.relu())).mean((1, 2)))

    torch.manual_seed(0)
    network = insert_attention(ChannelsLast(), attention, where="mlp", **published(attention)).double().eval()
    for parameter in network.mlp.attention.parameters():
        nn.init.normal_(parameter, 0, 0.5)
    x = torch.randn(2, 7, 9, 8, dtype=torch.float64)
    plain = nn.functional.linear(x, network.mlp.weight, network.mlp.bias)
    expected = network.mlp.attention(plain.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(network.mlp(x), expected, rtol=1e-12, atol=1e-12)
    assert network.mlp(x).is_contiguous()
    assert not torch.allclose(expected, plain)
    network.mlp(x).square().sum().backward()
    assert all(p.grad is not None for p in network.mlp.attention.parameters())


def layer1_without_attention(network):
    network.layer1[0]._modules["bn2"] = nn.BatchNorm2d(64)  # unseen by torch's registration hooks
    return network


def layer1_deleted(network):
    del network.layer1[0].bn2
    network.layer1[0].bn2 = nn.BatchNorm2d(64)
    return network


def layer1_with_another_forward(network):
    network.layer1[0].bn2.forward = lambda x: x
    return network


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            layer1_without_attention,
            "attention after layer1.0.bn2: it is gone, for other code replaced the module",
        ),
        (layer1_deleted, "attention after layer1.0.bn2: it is gone, for other code replaced the module"),
        (
            layer1_with_another_forward,
            "attention after layer1.0.bn2: other code replaced the module's forward",
        ),
        (
            lambda n: timm.utils.reparameterize_model(
                insert_attention(timm.create_model("efficientvit_m0").eval(), "se")
            ),
            r"attention after stages.0.blocks.0.dw0.m.bn, .*: it is gone",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:no attention")
def test_the_next_forward_pass_says_once_what_took_attention_away(change, message):
    network, x = change(attended_resnet()), torch.randn(1, 3, 224, 224)
    with pytest.warns(UserWarning, match=message):
        network(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network(x)


def test_a_module_that_moves_takes_its_attention_along():
    network, x = attended_resnet(), torch.randn(2, 3, 64, 64)
    expected, _ = calls(network, x)
    block = network.layer1[0]
    block.conv2 = nn.Sequential(block.conv2, block.bn2)
    block.bn2 = nn.Identity()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        output, after = calls(network, x)
    torch.testing.assert_close(output, expected)
    assert after == [1] * 4
    block = network.layer2[0]
    block.bn1, block.bn2 = block.bn2, block.bn1
    assert [isinstance(module, Attended) for module in (block.bn1, block.bn2)] == [True, False]


def test_other_attention_in_its_place_is_applied_on_the_same_axis():
    network, x = attended_resnet(), torch.randn(1, 3, 64, 64)
    plain = network.layer1[0].bn2
    for host in (network.layer1[0], network.layer2[0], network.layer3[0], network.layer4[0]):
        host.bn2.attention = nn.Identity()
    assert torch.equal(network(x), resnet()(x))
    assert isinstance(plain, Attended)


def test_a_new_module_of_the_class_of_a_host_is_a_plain_one():
    host = attended_resnet().layer1[0].bn2
    assert torch.equal(
        type(host)(2).eval()(torch.ones(1, 2, 3, 3)), nn.BatchNorm2d(2).eval()(torch.ones(1, 2, 3, 3))
    )


def test_classes_that_register_their_subclasses_do_not_see_the_attended_one():
    known = []

    class Registers(nn.Conv2d):
        def __init_subclass__(cls, *, name):
            known.append(name)

    network = insert_attention(nn.Sequential(Registers(3, 4, 1), nn.Conv2d(4, 2, 1)), "se", where="0")
    assert isinstance(network[0], Attended)
    assert known == []


def test_a_host_can_be_traced_alone():
    host, x = attended_resnet(where="stage").layer1[0], torch.randn(1, 64, 8, 8)
    torch.testing.assert_close(torch.fx.symbolic_trace(host)(x), host(x))


def test_a_second_insertion_leaves_the_first_attention_alone():
    network = resnet()
    insert_attention(network, "sagan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        insert_attention(network, "se")
    hosts = [name for name, module in network.named_modules() if isinstance(module, Attended)]
    assert len(hosts) == 9
    assert not any(".attention" in name for name in hosts)
