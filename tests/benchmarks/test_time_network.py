"""The comparison of networks. Nothing here depends on how fast the machine is."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cbam_lightning.attention import BAM, CBAM, create_attention, list_attention
from cbam_lightning.benchmarks import time_network as benchmark
from cbam_lightning.benchmarks.baselines import AuthorsBAM, AuthorsChannelGate
from cbam_lightning.benchmarks.compiling import alone_compiled
from cbam_lightning.benchmarks.measurements import Measurement
from cbam_lightning.benchmarks.options import NetworkOptions
from cbam_lightning.benchmarks.time_network import time_network
from cbam_lightning.benchmarks.training_step import TrainingStep
from cbam_lightning.errors import UsageError


@pytest.fixture
def timed(monkeypatch):
    """Replace the clock: the first network takes 1 s, the second 2 s, …; return what it was given."""
    given = []

    def alternate(candidates, repeats, warmup, device, description):
        given.append(candidates)
        return {name: [1.0 + i] * repeats for i, name in enumerate(candidates)}

    monkeypatch.setattr(benchmark, "alternate", alternate)
    return given


def measure(network="resnet20", **options):
    given = {
        "network": network,
        "batch_size": 2,
        "size_px": 8,
        "in_channels": 1,
        "repeats": 2,
        "compiled": False,
    } | options
    return time_network(NetworkOptions(**given))


def values(report):
    return {row.candidate: row.values for row in report.rows}


def built(network, attention, form):
    return benchmark._forms(network, attention, in_channels=3, compiled=True)[form]()


class TestTrainingStep:
    def test_is_a_step_of_sgd_on_the_cross_entropy(self):
        network = nn.Sequential(nn.Flatten(), nn.Linear(12, 10))
        images = torch.randn(3, 3, 2, 2)
        step = TrainingStep(network.eval(), images)
        velocities = [0.0, 0.0]
        for _ in range(2):
            start = [parameter.detach().clone().requires_grad_() for parameter in network.parameters()]
            loss = F.cross_entropy(images.flatten(1) @ start[0].T + start[1], torch.arange(3))
            gradients = torch.autograd.grad(loss, start)
            step()
            for i, (got, before, gradient) in enumerate(
                zip(network.parameters(), start, gradients, strict=True)
            ):
                torch.testing.assert_close(got.grad, gradient)
                velocities[i] = 0.9 * velocities[i] + gradient + 1e-4 * before.detach()
                torch.testing.assert_close(got.detach(), before.detach() - 0.01 * velocities[i])
        assert network.training

    def test_keeps_the_bytes_of_its_tensors(self):
        step = TrainingStep(nn.Sequential(nn.Flatten(), nn.Linear(12, 10)), torch.randn(3, 3, 2, 2))
        # the input of the linear layer, the log-softmax, the labels, and the sum of their weights
        assert step.saved_bytes() == 4 * 3 * 12 + 4 * 3 * 10 + 8 * 3 + 4

    @pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
    def test_runs_under_autocast_and_scales_the_loss_of_fp16_alone(self, precision, dtype):
        seen = []
        network = nn.Sequential(nn.Flatten(), nn.Linear(12, 10))
        network[1].register_forward_hook(lambda module, args, output: seen.append(output))
        network[1].register_full_backward_hook(lambda module, inputs, outputs: seen.append(outputs[0]))
        images = torch.rand(3, 3, 2, 2) / 2  # below 1: the scaled gradients stay below fp16's 65504
        TrainingStep(network, images, precision=precision)()
        assert [tensor.dtype for tensor in seen] == [dtype] * 2
        scaled = seen[1].abs().max() > 1  # a gradient of the cross-entropy is not
        assert scaled == (precision == "fp16")
        assert all(p.grad.abs().max() < 10 for p in network.parameters())  # the scale is taken out again

    def test_labels_are_classes_in_a_batch_of_any_size(self):
        labels = TrainingStep(nn.Linear(1, 1), torch.zeros(1002, 1)).labels
        assert labels.tolist() == [*range(1000), 0, 1]


def test_compiled_networks_are_groups_of_their_own_with_a_plain_one(timed, monkeypatch):
    pytest.importorskip("timm")
    compiled, resets = [], []
    monkeypatch.setattr(nn.Module, "compile", lambda self, mode, dynamic: compiled.append(mode))
    monkeypatch.setattr(torch.compiler, "reset", lambda: resets.append(len(timed)))
    monkeypatch.setattr(benchmark, "choose_compiled", lambda *_: True)
    monkeypatch.setattr(TrainingStep, "__call__", lambda self: None)
    monkeypatch.setattr(TrainingStep, "saved_bytes", lambda self: 1)
    found = {r.name: r for r in measure(compile_mode=["default", "default"], attention=["cbam"])}
    step, first = found["network_step"], found["network_first_step"]
    eager, whole = step.groups().values()
    names = ["plain", "cbam authors", "cbam reference", "cbam timm"]
    # on a CPU the reference would run under the name of fused
    assert [row.candidate for row in eager] == [*names[:3], "cbam fused", names[3]]
    assert [row.candidate for row in whole] == names
    assert {row.group for row in whole} == {"batch 2, 8 px, channels_first, compiled"}
    assert [step.ratio(row) for row in whole] == [1, 2, 3, 4]
    assert compiled == ["default"] * 4
    assert resets == [1, 2]  # before and after the second group
    assert [row.candidate for row in first.rows] == names
    assert (first.unit, first.baseline) == ("s", "plain")


@pytest.mark.slow
def test_more_networks_of_a_class_than_torch_keeps_are_all_compiled():
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    with alone_compiled():
        for depth in range(1, 12):
            network = nn.Sequential(*(nn.Linear(3, 3) for _ in range(depth)))
            network.compile(backend=counter)
            network(torch.ones(2, 3))
            assert counter.frame_count == depth


def test_on_a_gpu_its_figures_take_the_place_of_the_saved_bytes(timed, monkeypatch):
    given = []

    def device_figures(group, steps, device, repeats, *, with_graphs):
        given.append((list(steps), repeats, with_graphs))
        return {"peak_memory": [Measurement(group, name, [i + 1]) for i, name in enumerate(steps)]}

    monkeypatch.setattr(benchmark, "device_figures", device_figures)
    found = {report.name: report for report in measure(attention=["eca"])}
    assert list(found) == ["network_step", "network_peak_memory"]
    assert found["network_peak_memory"].mean_ratios()["eca reference"] == 2
    assert given[0][1:] == (2, False)


def test_a_small_run():
    pytest.importorskip("timm")
    step, kept = measure(attention=["cbam", "sagan", "cbam"])
    names = ["plain", "cbam authors", "cbam reference", "cbam timm", "sagan reference"]
    for report in (step, kept):
        assert report.baseline == "plain"
        assert list(values(report)) == names
        assert report.groups().keys() == {"batch 2, 8 px, channels_first"}
    assert all(len(v) == 2 and min(v) > 0 for v in values(step).values())
    plain, *others = (v for (v,) in values(kept).values())
    assert all(plain < other for other in others)


def test_the_bytes_of_se_are_those_of_its_tensors(timed):
    _, kept = measure(attention=["se"], memory_format=["channels_first", "channels_last"])
    # in each of the nine blocks: the map, its means, the hidden layer, and the gate
    added = sum(
        3 * 4 * 2 * (channels * side**2 + 2 * channels + channels // 16)
        for channels, side in ((16, 8), (32, 4), (64, 2))
    )
    for rows in kept.groups().values():
        plain, *others = (row.values[0] for row in rows)
        assert {other - plain for other in others} == {added}


def test_seconds_become_milliseconds_and_every_format_has_networks_of_its_own(timed):
    formats = ["channels_first", "channels_last", "channels_last"]
    step, _ = measure(attention=["eca"], memory_format=formats)
    assert [row.values for row in step.rows][:2] == [[1e3] * 2, [2e3] * 2]
    assert [list(group) for group in timed] == [list(timed[0])] * 2
    for candidates, layout in zip(timed, (torch.contiguous_format, torch.channels_last), strict=True):
        for training_step in candidates.values():
            network = training_step.network
            assert network.layer1[0].conv1.weight.is_contiguous(memory_format=layout)
    first, last = (group["plain"].network.fc.weight for group in timed)
    assert first is not last


@pytest.mark.parametrize(
    ("network", "attention", "ours", "theirs", "places"),
    [
        ("resnet20", "cbam", CBAM, AuthorsChannelGate, 9),
        ("resnet20", "bam", BAM, AuthorsBAM, 2),
        ("torchvision/shufflenet_v2_x0_5", "cbam", CBAM, AuthorsChannelGate, 4),
    ],
)
def test_the_authors_form_takes_the_place_of_ours(network, attention, ours, theirs, places):
    reference, authors = (built(network, attention, form).double() for form in ("reference", "authors"))
    assert sum(isinstance(module, ours) for module in reference.modules()) == places
    assert sum(isinstance(module, theirs) for module in authors.modules()) == places
    assert not any(isinstance(module, ours) for module in authors.modules())
    for module in (reference, authors):
        for name, parameter in module.named_parameters():
            if name.endswith(("spatial.bn.weight", "1.bn.weight")):  # 0 in the beginning, in CBAM alone
                nn.init.ones_(parameter)
    images = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    for module in (reference, authors):
        module.eval()
    torch.testing.assert_close(authors(images), reference(images), rtol=1e-10, atol=1e-10)


def test_all_start_from_the_weights_of_the_plain_network():
    pytest.importorskip("timm")
    plain = benchmark._build("resnet20", "none", {}, 3).state_dict()
    for form in ("reference", "authors", "fused", "timm"):
        state = built("resnet20", "cbam", form).state_dict()
        assert len(state) > len(plain)
        assert all(torch.equal(value, state[key]) for key, value in plain.items()), form


def test_the_implementation_and_the_gate_are_those_of_the_candidate():
    for form in ("reference", "fused"):
        modules = [
            m for m in built("torchvision/shufflenet_v2_x0_5", "cbam", form).modules() if type(m) is CBAM
        ]
        assert {module.implementation for module in modules} == {form}
        assert {module.channel.gate for module in modules} == {"sigmoid"}


@pytest.mark.parametrize("network", ["resnet8", "torchvision/shufflenet_v2_x0_5"])
@pytest.mark.parametrize("name", [name for name in list_attention() if name != "none"])
def test_every_attention_is_measured_with_its_default_gate(network, name):
    alone = create_attention(name, 16)
    reference = benchmark._forms(network, name, 3, compiled=False)["reference"]()
    modules = [module for module in reference.modules() if type(module) is type(alone)]
    assert modules
    assert all(getattr(module, "gate", None) == getattr(alone, "gate", None) for module in modules)


def test_fused_needs_a_compiler():
    forms = [benchmark._forms("resnet20", "cbam", 3, compiled) for compiled in (False, True)]
    assert forms[1].keys() - forms[0].keys() == {"fused"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "resnet21"}, "unknown model 'resnet21'"),
        ({"attention": ["cbma"]}, "unknown attention 'cbma'"),
        ({"attention": ["cbam", "none"]}, "attention 'none' is the plain network"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"size_px": -1}, "size_px is -1"),
        ({"in_channels": 0}, "in_channels is 0"),
        ({"repeats": 0}, "repeats is 0"),
        ({"memory_format": ["chanels_first"]}, "Did you mean 'channels_first'"),
        ({"device": "abacus"}, "device is 'abacus'"),
        ({"precision": "64"}, "precision '64'"),
        ({"compile_mode": ["reduce_overhead"]}, "Did you mean 'reduce-overhead'"),
        ({"compile_mode": ["reduce-overhead"]}, "takes CUDA graphs, and the device is 'cpu'"),
        (
            {"batch_size": 1, "size_px": 4},
            "no training step is possible on images of 1x1x4x4 with resnet20: Expected more than 1",
        ),
        ({"batch_size": 999_999, "size_px": 9_999}, "does not fit into the memory of cpu"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(UsageError, match=message):
        measure(**options)
