"""Where attention goes in networks that are no plain classifiers, and what is said of what was left out."""

from dataclasses import dataclass

import pytest
import torch
import torchvision
from torch import nn

from cbam_lightning.errors import UsageError
from cbam_lightning.models.insertion import insert_attention, plan_insertion
from tests.models.networks import Small, build_on_meta, names

timm = pytest.importorskip("timm")


def double(inner, outer):
    return nn.Sequential(
        *(nn.Conv2d(inner, outer, 3, padding=1), nn.BatchNorm2d(outer), nn.ReLU(True)),
        *(nn.Conv2d(outer, outer, 3, padding=1), nn.BatchNorm2d(outer), nn.ReLU(True)),
    )


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down1, self.down2, self.bottom = double(3, 8), double(8, 16), double(16, 32)
        self.pool = nn.MaxPool2d(2)
        self.raise2, self.raise1 = nn.ConvTranspose2d(32, 16, 2, 2), nn.ConvTranspose2d(16, 8, 2, 2)
        self.up2, self.up1, self.out = double(32, 16), double(16, 8), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        first = self.down1(x)
        second = self.down2(self.pool(first))
        x = self.bottom(self.pool(second))
        x = self.up2(torch.cat([second, self.raise2(x)], 1))
        return self.out(self.up1(torch.cat([first, self.raise1(x)], 1)))


def test_a_unet_gets_attention_in_its_stages_and_not_on_its_output():
    with pytest.warns(
        UserWarning, match="no attention after out: the network's output follows without another"
    ):
        assert names(UNet()) == ["down1.5", "down2.5", "bottom.5", "up1.5"]
    with pytest.raises(
        UsageError, match=r"cannot follow 'out', which returns the network's output. Choose .* up1"
    ):
        plan_insertion(UNet(), "out")


@pytest.mark.parametrize("results", [tuple, list, lambda maps: {str(i): m for i, m in enumerate(maps)}])
def test_none_of_the_heads_of_a_detector_gets_attention(results):
    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.stages = nn.ModuleList(double(a, b) for a, b in ((3, 8), (8, 16), (16, 32)))
            self.heads = nn.ModuleList(nn.Conv2d(width, width + 3, 1) for width in (8, 16, 32))
            self.pool = nn.MaxPool2d(2)

        def forward(self, x):
            found = []
            for stage, head in zip(self.stages, self.heads, strict=True):
                x = self.pool(stage(x))
                found.append(head(x))
            return results(found)

    with pytest.warns(UserWarning, match=r"no attention after heads\.0, heads\.1, heads\.2"):
        places = names(Detector(), example=(1, 3, 32, 32))
    assert places == [f"stages.{stage}.5" for stage in range(3)]


@pytest.mark.parametrize(
    "name",
    [
        n
        for n in torchvision.models.list_models(module=torchvision.models.segmentation)
        if "50" in n or "v3_large" in n
    ],
)
@pytest.mark.parametrize("where", ["residual", "stage"])
@pytest.mark.filterwarnings("ignore:no attention")
def test_segmentation_gets_attention_in_its_backbone_only(name, where):
    with torch.device("meta"):
        network = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=7)
    points = plan_insertion(network, where)
    assert points
    assert {point.name.split(".")[0] for point in points} == {"backbone"}


class LoRA(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base, self.down = base, nn.Conv2d(base.in_channels, 4, base.kernel_size, padding=base.padding)
        self.up = nn.Conv2d(4, base.out_channels, 1)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x)) * 0.5


def test_the_sum_in_a_lora_is_no_residual():
    network = Small()
    for block in network.blocks:
        block.conv1, block.conv2 = LoRA(block.conv1), LoRA(block.conv2)
    assert names(network) == ["blocks.0.conv2", "blocks.1.conv2"]


def test_what_is_added_to_the_input_is_the_output():
    class Restores(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Conv2d(3, 8, 3, padding=1)
            self.body, self.tail = Small().blocks, nn.Conv2d(8, 3, 3, padding=1)

        def forward(self, x):
            return x + self.tail(self.body[1](self.body[0](self.head(x))))

    assert names(Restores()) == ["body.0.conv2", "body.1.conv2"]


def test_a_scaled_branch_is_found_through_its_scale():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.conv, self.gain = (
                nn.Conv2d(3, 8, 1),
                nn.Conv2d(8, 8, 3, padding=1),
                nn.Parameter(torch.ones(1)),
            )
            self.fc = nn.Linear(8, 2)

        def forward(self, x):
            x = self.stem(x)
            x = x + (self.conv(x.relu()) * self.gain).mul_(0.2)
            return self.fc(x.mean((2, 3)))

    network = insert_attention(Scaled(), "se", gate="sigmoid")
    assert network.conv.attention is not None


def test_stages_instead_of_residual_branches_are_told():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.weight = nn.Conv2d(3, 8, 1), nn.Parameter(torch.ones(8, 8, 1, 1))
            self.fc = nn.Linear(8, 2)

        def forward(self, x):
            x = self.stem(x)
            x = x + nn.functional.conv2d(x.relu(), self.weight)
            return self.fc(x.mean((2, 3)))

    with pytest.warns(
        UserWarning, match="no attention on 1 of 1 residual branches: .* the ends of the stages get it"
    ):
        assert names(Functional()) == ["stem"]
    with pytest.raises(UsageError, match="Functional has no residual branch that a module returns as a map"):
        plan_insertion(Functional(), "residual")


class OwnWay(nn.Sequential):
    def forward(self, x):
        for module in self:
            x = module(x)
        return x * 2


def with_a_forward_of_its_own():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))
    network[0].forward = lambda x: nn.functional.conv2d(x, network[0].weight)
    return network


class RunsOverChildren(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.ReLU()

    def forward(self, x):
        for child in self.children():
            x = child(x)
        return x.clone()


@pytest.mark.parametrize(
    ("network", "where", "message"),
    [
        (
            lambda: nn.Sequential(OwnWay(nn.Conv2d(3, 4, 1)), nn.Conv2d(4, 2, 1)),
            "0",
            "runs its modules in its own way",
        ),
        (
            lambda: nn.Sequential(RunsOverChildren(), nn.Conv2d(4, 2, 1)),
            "0",
            "would not run it once: it runs over its own modules",
        ),
        (with_a_forward_of_its_own, "0", "would not run it once: .* or not its class's forward"),
        (
            lambda: build_on_meta("torchvision/densenet121"),
            "features.denseblock1",
            "runs its modules in its own way",
        ),
        (
            lambda: torchvision.models.segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None),
            "classifier.0.convs.4",
            "runs its modules in its own way",
        ),
    ],
)
def test_modules_that_run_over_their_children_are_refused(network, where, message):
    network = network()
    keys = list(network.state_dict())
    with pytest.raises(UsageError, match=f"cannot follow '{where}', which {message}"):
        insert_attention(network, "cbam", where=where)
    assert list(network.state_dict()) == keys


def test_a_block_that_runs_over_its_children_is_left_out_with_a_word():
    network = nn.Sequential(RunsOverChildren(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1))
    with pytest.warns(UserWarning, match=r"no attention after 0: it runs over its own modules"):
        assert names(network, "stage") == ["2"]


def test_an_attribute_of_the_same_name_is_left_alone():
    """A module with an attribute ``attention`` of its own does not get a second one; the last inside does."""

    class Attentive(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.last = nn.Identity(), nn.Conv2d(3, 4, 1)

        def forward(self, x):
            return self.last(self.attention(x))

    network = nn.Sequential(Attentive(), nn.Flatten(), nn.LazyLinear(2))
    network(torch.zeros(1, 3, 8, 8))
    assert names(network, example=(1, 3, 8, 8)) == ["0.last"]
    with pytest.raises(UsageError, match="'0', which has an attribute 'attention' of its own"):
        insert_attention(network, "se", where="0", example=(1, 3, 8, 8))


@pytest.mark.parametrize("where", ["residual", "stage"])
def test_detectors_work_by_themselves(where):
    torch.manual_seed(0)
    network = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=7
    ).eval()
    image = [torch.rand(3, 64, 96)] * 2
    with torch.no_grad():
        before, _ = network(image)
        insert_attention(network, "cbam", where=where)
        after, _ = network(image)
    hosts = {name.split(".attention.")[0] for name, _ in network.named_parameters() if ".attention." in name}
    assert hosts
    assert all(host.startswith("backbone.") for host in hosts)
    assert all(torch.equal(after[key], before[key]) for key in before)
    target = {"boxes": torch.tensor([[8.0, 8.0, 40.0, 40.0]]), "labels": torch.tensor([3])}
    losses = network.train()(image, [target, target])
    sum(losses.values()).backward()
    assert all(p.grad is not None for name, p in network.named_parameters() if ".attention." in name)


def test_the_outputs_in_a_dataclass_are_found():
    @dataclass
    class Result:
        logits: torch.Tensor

    class Returns(UNet):
        def forward(self, x):
            return Result(logits=super().forward(x))

    with pytest.warns(UserWarning, match="no attention after out"):
        assert names(Returns()) == names(UNet())


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_batch_changes_no_place(batch):
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1), nn.InstanceNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8192, 2)
    )
    assert names(network, example=(batch, 3, 32, 32)) == ["2"]


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 32, 8, 8), nn.Linear(32, 2)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2)

    def forward(self, x):
        return self.head(self.encoder(self.stem(x).flatten(2).mT).mean(1))


def test_layers_that_torch_runs_as_a_whole_are_attended_as_a_whole():
    """In inference, torch.nn.TransformerEncoderLayer calls none of its modules."""
    torch.manual_seed(0)
    example = (1, 3, 64, 64)
    with pytest.raises(UsageError, match=r"encoder.layers.0.norm2', which is not called in inference"):
        plan_insertion(Transformer(), "encoder.layers.*.norm2", example)
    with pytest.warns(UserWarning, match="no attention on 4 of 4 residual branches"):
        assert names(Transformer(), example=example) == ["encoder"]
    network = insert_attention(
        Transformer().eval(), "se", where="encoder.layers.?", gate="sigmoid", example=example
    )
    x = torch.randn(example)
    with torch.no_grad():
        fast = network(x)
    torch.testing.assert_close(network(x), fast)
    nn.init.constant_(network.encoder.layers[0].attention.mlp[2].bias, 3.0)
    assert not torch.allclose(network(x), fast)


class Discards(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.act, self.fc = nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.Linear(8, 2)

    def forward(self, x):
        x = self.conv(x)
        self.act(x)
        return self.fc(x.mean((2, 3)))


def test_what_the_network_does_not_use_is_no_place():
    assert names(Discards()) == ["conv"]
    with pytest.raises(UsageError, match="'act', which returns what the network does not use"):
        plan_insertion(Discards(), "act")


def test_a_second_input_that_joins_hides_no_place():
    class Conditioned(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.time, self.second = nn.Conv2d(3, 8, 3), nn.Linear(4, 8), nn.Conv2d(8, 8, 3, 2)
            self.fc = nn.Linear(8, 2)

        def forward(self, x, time):
            x = self.first(x).relu() * self.time(time)[:, :, None, None]
            return self.fc(self.second(x).mean((2, 3)))

    assert names(Conditioned(), example=(torch.zeros(2, 3, 16, 16), torch.zeros(2, 4))) == ["first", "second"]


def test_the_sums_inside_an_lstm_are_no_residuals(recwarn):
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.lstm = (
                nn.Sequential(nn.Conv2d(1, 8, 3, (2, 1), 1), nn.ReLU()),
                nn.LSTM(64, 6, batch_first=True),
            )

        def forward(self, x):
            return self.lstm(self.conv(x).permute(0, 3, 1, 2).flatten(2))[0].mean(1)

    assert names(Reads(), example=(1, 1, 16, 32)) == ["conv.1"]
    assert [str(one.message) for one in recwarn] == []


def test_the_gating_signal_of_an_attention_unet_is_no_residual():
    class Gated(UNet):
        def __init__(self):
            super().__init__()
            self.of_signal, self.of_skip, self.psi = (
                nn.Conv2d(8, 4, 1),
                nn.Conv2d(8, 4, 1),
                nn.Conv2d(4, 1, 1),
            )

        def forward(self, x):
            skip = self.down1(x)
            signal = self.raise1(self.down2(self.pool(skip)))
            gate = self.psi((self.of_signal(signal) + self.of_skip(skip)).relu()).sigmoid()
            return self.out(self.up1(torch.cat([skip * gate, signal], 1)))

    with pytest.warns(UserWarning, match="no attention after out"):
        assert names(Gated()) == ["up1.5"]


def test_the_stages_of_a_feature_extractor_are_its_outputs():
    network = timm.create_model("resnet18", features_only=True)
    assert names(network, "stage") == ["act1", "layer1.1", "layer2.1", "layer3.1", "layer4.1"]


def test_a_part_that_is_called_twice_is_named():
    class Siamese(nn.Module):
        def __init__(self):
            super().__init__()
            self.branch = Small()

        def forward(self, first, second):
            return self.branch(first) - self.branch(second)

    images = torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 8, 8)
    with pytest.raises(
        UsageError, match=r"'branch' is called 2 times .*: insert_attention\(network.branch, …\)"
    ):
        plan_insertion(Siamese(), example=images)


def test_a_part_that_was_compiled_gets_attention_inside():
    network = nn.Sequential(double(3, 8), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 2))
    network[0] = torch.compile(network[0], backend="eager")
    assert names(network, "stage", (1, 3, 8, 8)) == ["0._orig_mod.5"]
