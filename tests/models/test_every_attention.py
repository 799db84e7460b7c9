"""Every registered attention in a network: it trains, is counted, and goes on from a checkpoint as it was."""

import io

import pytest
import torch
from torch import nn

from cbam_lightning import create_model
from cbam_lightning.attention import create_attention, list_attention
from cbam_lightning.errors import UsageError
from cbam_lightning.models.complexity import count
from cbam_lightning.models.published import classification_rows
from cbam_lightning.weights import Header, save_checkpoint
from tests.attention.cases import NAMES, identity_names, published

WIDTHS = {"widths": (8, 8, 16)}


def network(attention, seed=0):
    torch.manual_seed(seed)
    return create_model("resnet8", attention=attention, num_classes=4, in_channels=1, **WIDTHS)


def attention_modules(network):
    return [module for name, module in network.named_modules() if name.endswith("attention")]


class Training:
    """A network with its optimiser, whose state is that of a checkpoint."""

    def __init__(self, attention, seed):
        self.network = network(attention, seed).train()
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.1, momentum=0.9)

    def run(self, steps):
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            images = torch.randn(4, 1, 12, 10, generator=generator)
            loss = nn.functional.cross_entropy(self.network(images), torch.arange(4))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return self.network.state_dict()

    def save(self):
        file = io.BytesIO()
        torch.save({"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}, file)
        return file.getvalue()

    def load(self, content):
        state = torch.load(io.BytesIO(content), weights_only=True)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])


@pytest.mark.parametrize("attention", list_attention())
def test_trains_and_goes_on_from_a_checkpoint_bit_for_bit(attention):
    first, second = Training(attention, seed=0), Training(attention, seed=1)
    initial = {key: value.clone() for key, value in first.network.state_dict().items()}
    first.run(range(3))
    second.load(first.save())
    state, resumed = first.run(range(3, 5)), second.run(range(3, 5))
    for key, value in state.items():
        assert value.isfinite().all(), key
        assert torch.equal(value, resumed[key]), key
    inside = [name for name, _ in first.network.named_parameters() if ".attention." in name]
    moved = [name for name in inside if not torch.equal(state[name], initial[name])]
    assert {"weight", "gamma"} & {name.split(".")[-1] for name in moved} or not inside


@pytest.mark.parametrize("attention", NAMES)
def test_is_counted(attention):
    plain, attended = network("none"), network(attention)
    modules = attention_modules(attended)
    assert modules
    found, expected = count(attended, 32, in_channels=1), count(plain, 32, in_channels=1)
    assert found.params - expected.params == sum(p.numel() for m in modules for p in m.parameters())
    layers = (nn.Linear, nn.modules.conv._ConvNd)
    has_layers = any(isinstance(part, layers) for module in modules for part in module.modules())
    assert (found.macs > expected.macs) == has_layers


@pytest.mark.parametrize("attention", identity_names(accepted=False))
def test_networks_of_others_refuse_what_cannot_start_as_the_identity_but_count_it(attention, monkeypatch):
    monkeypatch.setattr(classification_rows, "published_rows", list)
    name, gate = "torchvision/squeezenet1_1", published(attention)
    with pytest.raises(UsageError, match=f"identity.*{gate['gate']}") as caught:
        create_model(name, attention=attention)
    assert "\n" not in str(caught.value)
    (row,) = classification_rows.rows([(name, attention)], size_px=64)
    built = create_model(name, attention=attention, attention_options=gate)
    assert row.params_m == sum(p.numel() for p in built.parameters()) / 1e6
    assert attention_modules(built)


@pytest.mark.parametrize(
    "attention", [name for name in NAMES if not [*create_attention(name, 8).parameters()]]
)
def test_weights_trained_with_attention_without_parameters_are_not_taken_for_others(attention, tmp_path):
    trained, path = network(attention).eval(), tmp_path / "net.safetensors"
    save_checkpoint(path, trained.state_dict(), Header("resnet8", attention, 4, 1, network_options=WIDTHS))
    images = torch.randn(2, 1, 12, 10)
    assert torch.equal(create_model(weights=path).eval()(images), trained(images))
    with pytest.raises(UsageError, match=f"was trained with attention '{attention}', not 'none'"):
        create_model(weights=path, attention="none")
    plain = create_model(weights=path, attention="none", strict_weights=False).eval()
    assert not torch.allclose(plain(images), trained(images))
