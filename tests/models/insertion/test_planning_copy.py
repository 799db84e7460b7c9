"""Planning leaves no trace in a network, whatever it keeps."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune, weight_norm

from cbam_lightning.errors import UsageError
from cbam_lightning.models.insertion import insert_attention, plan_insertion
from tests.models.networks import Small, names

BRANCHES = ["blocks.0.conv2", "blocks.1.conv2"]


class Keeps(Small):
    """Keeps tensors and counts, as detectors keep their anchors, and asks for random numbers."""

    def __init__(self):
        super().__init__()
        self.grid, self.calls, self.seen = None, 0, []
        self.offset = torch.ones(1)
        self.register_buffer("scale", torch.ones(1), persistent=False)

    def forward(self, x):
        self.calls += 1
        self.seen.append(tuple(x.shape))
        if self.grid is None:
            self.grid = torch.arange(x.shape[-1], dtype=x.dtype) * 0
        self.scale.mul_(2)
        self.offset = self.offset + torch.rand(1)
        return super().forward(x * self.offset.clamp(1, 1) + self.grid)


def snapshot(network):
    """Return all that the modules hold: the objects, their versions, and what lists and dictionaries hold."""

    def of(value):
        if isinstance(value, torch.Tensor):
            return id(value), value._version, value.device, value.requires_grad
        if isinstance(value, (list, tuple, set)):
            return id(value), [of(item) for item in value]
        if isinstance(value, dict):
            return id(value), [(key, of(item)) for key, item in value.items()]
        return id(value), value if isinstance(value, (bool, int, float, str)) else None

    return [(name, type(module), of(vars(module))) for name, module in network.named_modules()]


@pytest.mark.parametrize("needs_contents", [False, True])
@pytest.mark.parametrize("where", [None, "stage", "blocks.1"])
def test_planning_leaves_no_trace(needs_contents, where):
    class Network(Keeps):
        def forward(self, x):
            return super().forward(x if not needs_contents or x.sum().item() >= 0 else -x)

    network, ran = Network().train(), []
    network.norm.eval()  # frozen, as in fine-tuning
    network.register_forward_hook(lambda *_: ran.append("hook"))
    network.stem.register_forward_pre_hook(lambda *_: ran.append("pre-hook"))
    before, values = snapshot(network), {k: v.clone() for k, v in network.state_dict().items()}
    random_state = torch.get_rng_state()
    assert plan_insertion(network, where, (1, 2, 8, 8))
    assert snapshot(network) == before
    assert ran == []
    assert all(torch.equal(network.state_dict()[key], value) for key, value in values.items())
    assert torch.equal(torch.get_rng_state(), random_state)
    network(torch.randn(2, 2, 6, 6))  # still takes another size
    assert network.grid.device.type == "cpu"
    assert ran == ["pre-hook", "hook"]


def test_an_existing_grid_does_not_disturb_planning():
    network = Keeps()
    network(torch.randn(1, 2, 8, 8))
    assert names(network, example=(1, 2, 8, 8)) == BRANCHES


def test_tensors_that_were_computed_are_copied():
    network = Small()
    weight_norm(network.stem)  # keeps a weight that is no leaf
    prune.l1_unstructured(network.blocks[0].conv2, "weight", amount=0.5)
    network.context = network.stem.weight * 2
    assert names(network) == BRANCHES


def test_what_cannot_be_copied_is_named():
    network = Small()
    network.generator = (i for i in range(3))
    with pytest.raises(
        UsageError, match="Small cannot be copied to find the insertion points: cannot pickle"
    ):
        plan_insertion(network)
    assert not any(".attention." in key for key in network.state_dict())


def test_planning_inside_inference_mode():
    network = Small()
    with torch.inference_mode():
        insert_attention(network, "se", gate="sigmoid")
    network(torch.randn(2, 2, 8, 8)).sum().backward()
    assert network.blocks[0].conv2.attention.mlp[0].weight.grad is not None


def test_a_network_built_in_inference_mode_is_planned():
    with torch.inference_mode():
        assert names(Small()) == BRANCHES


def test_the_network_gives_its_warnings_when_it_is_used_not_when_it_is_planned(recwarn):
    class Warns(Small):
        def forward(self, x):
            import warnings

            warnings.warn("from the network", stacklevel=1)
            return super().forward(x)

    plan_insertion(Warns())
    assert [str(w.message) for w in recwarn] == []
    nn.Module.__call__(Warns(), torch.randn(1, 2, 8, 8))
    assert [str(w.message) for w in recwarn] == ["from the network"]
