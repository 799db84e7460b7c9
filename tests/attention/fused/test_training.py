"""Fused attention in training: precision, memory, graphs, processes, and the same losses."""

import io

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from cbam_lightning import create_model
from cbam_lightning.attention import CBAM
from cbam_lightning.benchmarks.memory import saved_bytes
from cbam_lightning.errors import UsageError
from cbam_lightning.models.resnet import ResNet
from tests.attention.checks import assert_survives_large_inputs, images, randomised
from tests.attention.fused.comparing import ARRANGEMENTS, as_fused, create, create_block, is_fused
from tests.tasks.small import batch

pytestmark = pytest.mark.usefixtures("uncompiled")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("arrangement", [*ARRANGEMENTS, "se"])
def test_half_precision_is_close_to_float32_and_survives_large_inputs(arrangement, dtype):
    module = as_fused(create(arrangement))
    x = images(2, 8, 9, 10).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype):
        output = module(x)
    assert is_fused(output)
    assert output.dtype == dtype
    (gradient,) = torch.autograd.grad(output.sum(), x)
    exact = x.detach().float().requires_grad_()
    expected = module(exact)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), exact)
    rounding = {torch.bfloat16: 2**-7, torch.float16: 2**-9}[dtype]
    torch.testing.assert_close(output.float(), expected, rtol=rounding, atol=1e-3)
    torch.testing.assert_close(gradient.float(), expected_gradient, rtol=rounding, atol=1e-2)
    assert_survives_large_inputs(module, dtype)


@pytest.mark.parametrize("convert", [nn.Module.half, nn.Module.bfloat16, nn.Module.double])
def test_a_converted_module_takes_float32(convert):
    reference = convert(create("channel-spatial"))
    x = images(2, 8, 5, 4).float()
    output = as_fused(reference)(x)
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, reference(x), rtol=0.03, atol=0.03)


def test_what_follows_may_work_in_place():
    module, x = as_fused(create("channel-spatial")), images(2, 8, 5, 4).float().requires_grad_()
    (expected,) = torch.autograd.grad(torch.relu(module(x)).sum(), x)
    (gradient,) = torch.autograd.grad(torch.relu_(module(x)).sum(), x)
    assert torch.equal(gradient, expected)


@pytest.mark.parametrize("arrangement", [*ARRANGEMENTS, "se"])
def test_a_second_derivative_is_refused(arrangement):
    x = images(2, 8, 5, 4).float().requires_grad_()
    output = as_fused(create(arrangement))(x)
    with pytest.raises(UsageError, match=r"no second derivative.*implementation='reference'"):
        torch.autograd.grad(output.sum(), x, create_graph=True)


def test_the_second_derivative_of_a_block_is_refused():
    u = images(2, 8, 5, 4).float().requires_grad_()
    with pytest.raises(UsageError, match="no second derivative"):
        torch.autograd.grad(as_fused(create_block())(u, u).sum(), u, create_graph=True)


def test_a_retained_graph_gives_the_same_again():
    module, x = as_fused(create("channel-spatial")), images(2, 8, 5, 4).float().requires_grad_()
    output = module(x).sum()
    first = torch.autograd.grad(output, [x, *module.parameters()], retain_graph=True)
    again = torch.autograd.grad(output, [x, *module.parameters()])
    assert all(map(torch.equal, first, again))


def test_activation_checkpointing_changes_nothing():
    module, x = as_fused(create_block()).eval(), images(2, 8, 5, 4).float().requires_grad_()
    plain = torch.autograd.grad(module(x, x).sum(), [x, *module.parameters()])
    again = checkpoint(module, x, x, use_reentrant=False)
    assert all(map(torch.equal, plain, torch.autograd.grad(again.sum(), [x, *module.parameters()])))


def test_a_changed_input_is_noticed():
    module, x = as_fused(create("channel-spatial")), images(2, 8, 5, 4).float()
    z = x.requires_grad_() * 1
    output = module(z)
    z.add_(1)
    with pytest.raises(RuntimeError, match=r"modified.* inplace|inplace operation"):
        output.sum().backward()


def test_only_the_input_is_kept_and_what_is_small():
    module, x = as_fused(create("channel-spatial")), images(4, 8, 20, 20).float().requires_grad_()
    # At each position: two maps, the results of convolution and BatchNorm, and the gate. Channels add little.
    small = 4 * (4 * 20 * 20 * 6 + 4 * 8 * 20)
    assert x.nbytes <= saved_bytes(lambda: module(x), module.parameters()) <= x.nbytes + small


def test_a_network_keeps_hardly_more_than_without_attention():
    kept = {}
    for attention, options in {"none": {}, "cbam": {"implementation": "fused"}}.items():
        network = create_model("resnet50", attention=attention, attention_options=options, num_classes=10)
        x = torch.randn(2, 3, 96, 96)
        values = [*network.parameters(), *network.buffers()]
        kept[attention] = saved_bytes(lambda n=network, x=x: n.train()(x), values)
    assert kept["cbam"] <= 1.03 * kept["none"]


def test_graphs_are_those_of_the_reference():
    module, x = as_fused(create("channel-spatial")).eval(), images(2, 8, 5, 4).float()
    program = torch.export.export(module, (x,)).module()
    traced = torch.jit.trace(module, x)
    assert torch.equal(program(x), traced(x))
    torch.testing.assert_close(program(x), module(x), rtol=1e-6, atol=1e-6)
    kinds = {node.kind() for node in traced.inlined_graph.nodes()}
    assert "prim::PythonOp" not in kinds  # a custom function would be one


def losses(implementation, dtype=torch.float32, steps=10):
    torch.manual_seed(0)
    options = {"implementation": implementation}
    network = ResNet(
        "basic", (1, 1, 1), stem="cifar", widths=(8, 16, 32), attention="cbam", attention_options=options,
        num_classes=10, in_channels=1,
    ).to(dtype)  # fmt: skip
    optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)
    found = []
    for step in range(steps):
        pictures, labels, _ = batch(32, 32 * step)
        loss = nn.functional.cross_entropy(network(pictures.to(dtype)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


def test_a_short_training_has_the_same_losses():
    fused, reference = losses("fused"), losses("reference")
    assert fused[-1] < fused[0]
    assert fused == pytest.approx(reference, rel=1e-5)
    assert losses("fused", torch.float64) == pytest.approx(losses("reference", torch.float64), rel=1e-10)


@pytest.mark.slow
def test_a_short_training_has_the_same_losses_compiled():
    torch.compiler.set_stance("default")
    assert losses("fused") == pytest.approx(losses("reference"), rel=1e-5)


def _process(rank, folder, state):
    torch.set_num_threads(1)
    torch.compiler.set_stance("force_eager")
    store = torch.distributed.FileStore(f"{folder}/store", 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    try:
        module = CBAM(8, 2, kernel_size=3, implementation="fused")
        module.load_state_dict(torch.load(io.BytesIO(state)))
        # One image at a time: statistics of a process would differ from those of all.
        module.spatial.bn.eval()
        parallel = DistributedDataParallel(module)
        parallel(images(4, 8, 5, 4).float()[2 * rank : 2 * rank + 2]).square().mean().backward()
        gradients = {name: p.grad for name, p in module.named_parameters()}
        torch.save(gradients, f"{folder}/{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()


def test_two_processes_get_the_gradients_of_one(tmp_path):
    module = randomised(CBAM(8, 2, kernel_size=3, implementation="reference"))
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    mp.spawn(_process, (str(tmp_path), buffer.getvalue()), nprocs=2)
    module.spatial.bn.eval()
    module(images(4, 8, 5, 4).float()).square().mean().backward()
    for rank in range(2):
        gradients = torch.load(tmp_path / f"{rank}.pt")
        for name, parameter in module.named_parameters():
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-5, atol=1e-6)
