"""BatchNorm over two processes against plain BatchNorm on the images of both."""

import copy
from itertools import product

import pytest
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cbam_lightning.attention import list_attention
from cbam_lightning.errors import UsageError
from cbam_lightning.models import create_model
from cbam_lightning.models.sync_batch_norm import SyncBatchNorm, revert_batch_norm, synchronise_batch_norm
from tests.attention.cases import cases, create
from tests.attention.checks import images, randomised


def has_batch_norm(module):
    return any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules())


SHAPES = {"1d": (6,), "1d positions": (6, 5), "2d": (6, 5, 4), "3d": (6, 3, 2, 4)}
KINDS = {"1d": nn.BatchNorm1d, "1d positions": nn.BatchNorm1d, "2d": nn.BatchNorm2d, "3d": nn.BatchNorm3d}
COUNTS = [(4, 4), (3, 5), (0, 8), (1, 1)]
OPTIONS = {
    "default": {},
    "cumulative": {"momentum": None},
    "untracked": {"track_running_stats": False},
    "without affine": {"affine": False},
}
CASES = list(product(SHAPES, COUNTS, OPTIONS))
NETWORKS = {
    **{name: {"attention": name} for name in list_attention()},
    "cbam fused": {"attention": "cbam", "attention_options": {"implementation": "fused"}},
}
# In single precision BAM has a ReLU near 0 in some step: even the order of the images changes the training.
SMOOTH = ("cbam", "cbam fused", "se")
# Attention with a BatchNorm, by the name of the case
MODULES = {case.id: case.values for case in cases() if has_batch_norm(create(*case.values))}
STEPS = {torch.float64: 3, torch.float32: 20}
IMAGES = 16


def batch_norm(dims="2d", options="default"):
    return randomised(KINDS[dims](6, **OPTIONS[options])).double()


def batches(shape, offset=0.0):
    """Return three different batches."""
    return [offset + (step + 1) * images(*shape) + step for step in range(3)]


def single_precision():
    """Return a module, and channels-last batches with a mean far from 0."""
    inputs = [x.float().to(memory_format=torch.channels_last) for x in batches((8, 6, 20, 20), 30.0)]
    return batch_norm().float(), inputs


def half_precision():
    return batch_norm().float(), [x.bfloat16() for x in batches((8, 6, 20, 20), 3.0)]


def run(module, inputs):
    """Train a step on each of the inputs and evaluate.

    Returns what belongs to the images, what belongs to the parameters, and the buffers.
    """
    of_images, buffers = [], dict(module.named_buffers())
    for x in inputs:
        leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
        output = module(leaf)
        output.backward(x.cos())
        of_images += [output.detach(), leaf.grad]
    if "running_mean" in buffers:
        of_images.append(module.eval()(inputs[0]).detach())
    gradients = {name: p.grad for name, p in module.named_parameters()}
    return of_images, gradients, buffers


def network(name, dtype=torch.float64):
    torch.manual_seed(1)
    options = {"depths": [1, 1, 1], "widths": [8, 16, 32], "num_classes": 10, "in_channels": 1}
    return create_model("resnet20", **NETWORKS[name], **options).to(dtype)


def train(network, share=slice(None)):
    """Train on this share of the images of every step; return the losses and the state."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    dtype = next(network.parameters()).dtype
    labels, losses = torch.arange(IMAGES) % 10, []
    for x in images(STEPS[dtype], IMAGES, 1, 14, 14).to(dtype):
        loss = F.cross_entropy(network(x[share]), labels[share])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return torch.tensor(losses, dtype=torch.float64), dict(network.state_dict())


def half_of_everything(rank):
    """Return all results that the tests need from one of two processes."""

    def own(inputs, counts=(4, 4)):
        start = rank * counts[0]
        return [x[start : start + counts[rank]] for x in inputs]

    def synchronised(module, inputs, counts=(4, 4)):
        return run(synchronise_batch_norm(module), own(inputs, counts))

    found = {
        (dims, counts, options): synchronised(
            batch_norm(dims, options), batches((sum(counts), *SHAPES[dims])), counts
        )
        for dims, counts, options in CASES
    }
    for case, values in MODULES.items():
        found[case] = synchronised(create(*values).double(), batches((2, 8, 5, 4)), (1, 1))
    found["float32"] = synchronised(*single_precision())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found["bfloat16"] = synchronised(*half_precision())
    try:
        SyncBatchNorm(6)(torch.zeros(1 - rank, 6))
    except ValueError as error:
        found["one value"] = str(error)
    share = slice(rank * IMAGES // 2, (rank + 1) * IMAGES // 2)
    trained = [(name, torch.float64) for name in NETWORKS] + [(name, torch.float32) for name in SMOOTH]
    for name, dtype in trained:
        module = synchronise_batch_norm(network(name, dtype))
        losses, _ = train(DistributedDataParallel(module), share)
        found[name, dtype] = losses, dict(module.state_dict())
    found["not synchronised"] = train(DistributedDataParallel(network("cbam")), share)
    return found


def process(rank, folder):
    torch.set_num_threads(1)
    torch.compile = lambda function, **_: function  # loading the compiler alone takes seconds
    store = torch.distributed.FileStore(f"{folder}/store", 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    try:
        torch.save(half_of_everything(rank), f"{folder}/{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(process, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def joined(halves, key):
    (images0, gradients0, buffers0), (images1, gradients1, buffers1) = (half[key] for half in halves)
    torch.testing.assert_close(buffers0, buffers1, rtol=0, atol=0)
    of_images = [torch.cat(parts) for parts in zip(images0, images1, strict=True)]
    return of_images, {name: value + gradients1[name] for name, value in gradients0.items()}, buffers0


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("dims", SHAPES)
def test_two_processes_equal_one_with_all_images(halves, dims, counts, options):
    found = joined(halves, (dims, counts, options))
    expected = run(batch_norm(dims, options), batches((sum(counts), *SHAPES[dims])))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def formula(x, weight, bias):
    """Return ``x`` with normalised channels, their means and their unbiased variances."""
    channels, means, variances = [], [], []
    for c in range(x.shape[1]):
        values = x[:, c].flatten()
        mean = values.sum() / len(values)
        squares = ((values - mean) ** 2).sum()
        channels.append(weight[c] * (x[:, c] - mean) / (squares / len(values) + 1e-5).sqrt() + bias[c])
        means.append(mean)
        variances.append(squares / (len(values) - 1))
    return torch.stack(channels, 1), torch.stack(means).detach(), torch.stack(variances).detach()


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("dims", SHAPES)
def test_two_processes_equal_the_formula(halves, dims, counts):
    of_images, gradients, buffers = joined(halves, (dims, counts, "default"))
    state = batch_norm(dims).state_dict()
    weight, bias = (state[name].clone().requires_grad_() for name in ("weight", "bias"))
    expected = []
    for x in batches((sum(counts), *SHAPES[dims])):
        output, mean, variance = formula(x.requires_grad_(), weight, bias)
        output.backward(x.detach().cos())
        expected += [output.detach(), x.grad]
        state["running_mean"] = 0.9 * state["running_mean"] + 0.1 * mean
        state["running_var"] = 0.9 * state["running_var"] + 0.1 * variance
    state["num_batches_tracked"] += 3
    torch.testing.assert_close(of_images[:-1], expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients, {"weight": weight.grad, "bias": bias.grad}, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(buffers, {name: state[name] for name in buffers}, rtol=1e-12, atol=1e-12)


def test_single_precision_has_the_digits_of_one_process(halves):
    found, (module, inputs) = joined(halves, "float32"), single_precision()
    exact = run(copy.deepcopy(module).double(), [x.double() for x in inputs])
    plain = run(module, inputs)
    for got, one, want in zip(found[0], plain[0], exact[0], strict=True):
        assert got.is_contiguous(memory_format=torch.channels_last)
        allowed = 1.5 * (one - want).abs().max() + 1e-7
        assert (got - want).abs().max() < allowed
    for group in (1, 2):
        for name, want in exact[group].items():
            torch.testing.assert_close(found[group][name].double(), want.double(), rtol=1e-6, atol=1e-6)


def test_autocast_leaves_the_statistics_in_float32(halves):
    found, (module, inputs) = joined(halves, "bfloat16"), half_precision()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = run(module, inputs)
    # an element may be rounded in the other direction, by 2^-8 of its value
    torch.testing.assert_close(found[0], plain[0], rtol=2**-7, atol=2e-3)
    torch.testing.assert_close(found[2], plain[2], rtol=1e-6, atol=1e-6)
    assert {value.dtype for value in found[0]} == {torch.bfloat16}


@pytest.mark.parametrize("case", MODULES)
def test_attention_takes_one_image_from_each_process(halves, case):
    expected = run(create(*MODULES[case]).double(), batches((2, 8, 5, 4)))
    torch.testing.assert_close(joined(halves, case), expected, rtol=1e-12, atol=1e-12)


def test_one_value_in_all_processes_is_refused_in_all_of_them(halves):
    assert {half["one value"] for half in halves} == {
        "expected more than 1 value per channel in training, got 1 in all processes"
    }


def assert_same_training(halves, name, dtype, loss_tolerance, tolerance):
    with torch.compiler.set_stance("force_eager"):
        losses, state = train(network(name, dtype))
    (losses0, state0), (losses1, state1) = (half[name, dtype] for half in halves)
    torch.testing.assert_close(state0, state1, rtol=0, atol=0)
    torch.testing.assert_close((losses0 + losses1) / 2, losses, rtol=0, atol=loss_tolerance)
    torch.testing.assert_close(state0, state, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_short_training_in_two_processes_is_that_in_one(halves, name):
    assert_same_training(halves, name, torch.float64, 1e-12, 1e-12)


@pytest.mark.parametrize("name", SMOOTH)
def test_so_it_is_in_single_precision(halves, name):
    assert_same_training(halves, name, torch.float32, 1e-6, 1e-5)


def test_without_it_two_processes_differ_from_one(halves):
    losses, _ = train(network("cbam"))
    parts = [half["not synchronised"][0] for half in halves]
    assert ((parts[0] + parts[1]) / 2 - losses).abs().max() > 1e-3


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dims", SHAPES)
def test_alone_it_is_plain_batch_norm_bit_for_bit(dims, options):
    inputs = batches((8, *SHAPES[dims]))
    expected = run(batch_norm(dims, options), inputs)
    found = run(synchronise_batch_norm(batch_norm(dims, options)), inputs)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize(("device", "kind"), [("cpu", SyncBatchNorm), ("cuda", nn.SyncBatchNorm)])
def test_a_network_is_converted_and_reverted_in_place(device, kind):
    module = network("cbam").train()
    module.bn1.eval()
    before = dict(module.named_modules())
    classes, modes = ([f(m) for m in module.modules()] for f in (type, lambda m: m.training))
    tensors = module.state_dict(keep_vars=True)
    attributes = {name: set(vars(m)) for name, m in before.items()}
    seen = []
    module.bn1.register_forward_hook(lambda *_: seen.append(1))
    attributes["bn1"] = set(vars(module.bn1))
    assert synchronise_batch_norm(module, torch.device(device)) is module
    assert synchronise_batch_norm(module, torch.device(device)) is module
    kinds = {type(m) for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    assert kinds == {kind}
    assert dict(module.named_modules()) == before
    assert [m.training for m in module.modules()] == modes
    assert list(module.state_dict()) == list(tensors)
    assert all(value is tensors[name] for name, value in module.state_dict(keep_vars=True).items())
    module(images(2, 1, 14, 14))
    assert seen == [1]
    assert revert_batch_norm(module) is module
    assert [type(m) for m in module.modules()] == classes
    assert {name: set(vars(m)) for name, m in module.named_modules()} == attributes


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_activation_of_timms_batch_norm_is_kept(device):
    layers = pytest.importorskip("timm.layers")
    bn = randomised(layers.BatchNormAct2d(6, act_layer=nn.SiLU, inplace=False)).double()
    inputs = batches((8, 6, 5, 4))
    converted = synchronise_batch_norm(copy.deepcopy(bn), torch.device(device))
    assert isinstance(converted, SyncBatchNorm if device == "cpu" else nn.SyncBatchNorm)
    torch.testing.assert_close(run(converted, inputs), run(bn, inputs), rtol=0, atol=0)
    assert type(revert_batch_norm(converted)) is layers.BatchNormAct2d


def test_where_the_parameters_are_decides():
    bn = synchronise_batch_norm(nn.BatchNorm2d(3))
    assert type(bn) is SyncBatchNorm
    assert type(synchronise_batch_norm(nn.BatchNorm2d(3, device="meta"))) is nn.SyncBatchNorm
    nothing = nn.BatchNorm2d(3, affine=False, track_running_stats=False)
    assert type(synchronise_batch_norm(nothing)) is SyncBatchNorm


class Doubled(nn.BatchNorm2d):
    def forward(self, x):
        return 2 * super().forward(x)


def test_a_forward_that_would_be_lost_is_refused_and_nothing_is_converted():
    module = nn.Sequential(nn.BatchNorm2d(3), Doubled(3))
    with pytest.raises(UsageError, match=r"Doubled is a BatchNorm that overrides forward"):
        synchronise_batch_norm(module)
    assert [type(m) for m in module] == [nn.BatchNorm2d, Doubled]


def test_what_the_user_synchronised_stays_synchronised():
    bn = nn.SyncBatchNorm(3)
    assert type(revert_batch_norm(synchronise_batch_norm(bn))) is nn.SyncBatchNorm


def test_numbers_without_a_channel_axis_are_refused():
    with pytest.raises(ValueError, match="at least 2D"):
        SyncBatchNorm(3)(torch.zeros(3))
