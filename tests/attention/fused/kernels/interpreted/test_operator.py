"""The kernels as an operator of torch: what checks, compiles, exports and transforms it."""

import copy
import io

import pytest
import torch
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch.func import functional_call, grad, vmap

from cbam_lightning.attention.fused.kernels import operator
from cbam_lightning.models.resnet import BasicBlock
from tests.attention.checks import randomised
from tests.attention.fused.comparing import ARRANGEMENTS, as_fused, create
from tests.attention.fused.kernels.interpreted.cases import create_end, feature_maps
from tests.attention.fused.kernels.interpreted.comparing import results

SHAPE = (2, 8, 2, 2)
# Most of them run in `make test-all` alone: each takes seconds.
EVERY = ["end", "se", *(pytest.param(name, marks=pytest.mark.slow) for name in ARRANGEMENTS)]


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch._dynamo.reset()


def create_any(name):
    """Create a fused module with a small kernel."""
    if name == "end":
        return as_fused(create_end("channel-spatial", 8, kernel_size=1))
    return as_fused(create(name, kernel_size=1).float())


def create_block(attention):
    block = BasicBlock(4, 8, 1)
    block.attention = create(attention)
    return as_fused(randomised(block).float())


@pytest.mark.parametrize("training", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", EVERY)
def test_opcheck(name, training, monkeypatch):
    torch.library.opcheck(torch.ops.cbam_lightning.attend.default, arguments_of(name, training, monkeypatch))


def arguments_of(name, training, monkeypatch):
    """Return the arguments with which a compiled module calls the operator."""
    module, given = create_any(name).train(training), []

    def apply(call, groups, *tensors):
        given.extend([*tensors[:2], *operator._grouped(tensors[2:], groups), *call.arguments])
        return tensors

    with monkeypatch.context() as patched:
        patched.setattr(operator._Attend, "apply", apply)
        module(*feature_maps(module, SHAPE))
    return tuple(given)


def compile_to_code(module):
    """Compile a module without the compiler of loops; return the code of its graphs, as they come."""
    code = []

    def keep(graph, _inputs):
        code.append(graph.code)
        return make_boxed_func(graph.forward)

    module.compile(backend=aot_autograd(fw_compiler=keep, bw_compiler=keep), fullgraph=True)
    return code


@pytest.mark.parametrize(
    ("attention", "dtype"),
    [("channel-spatial", None), ("channel-spatial", torch.bfloat16), ("se", torch.float16)],
    ids=str,
)
def test_a_compiled_block_keeps_the_operator(attention, dtype):
    block, x = create_block(attention), torch.randn(2, 4, 4, 3).requires_grad_()
    same = copy.deepcopy(block)
    code = compile_to_code(same)
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        _, expected = results(block, x)
        _, found = results(same, x)
    forward, backward = code
    assert forward.count("cbam_lightning.attend.default") == 1
    assert backward.count("cbam_lightning.attend_backward.default") == 1
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-2 if dtype else 1e-5, atol=1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_every_compiled_module_keeps_the_operator(name):
    for training in (True, False):
        module = create_any(name).train(training)
        same = copy.deepcopy(module)
        code = compile_to_code(same)
        maps = feature_maps(module, SHAPE)
        with torch.no_grad():
            torch.testing.assert_close(same(*maps), module(*maps), rtol=0, atol=0)
        (forward,) = code
        assert forward.count("cbam_lightning.attend.default") == 1


def test_shapes_may_change_in_a_compiled_module():
    module = create_any("channel-spatial")
    same = torch.compile(copy.deepcopy(module), backend="aot_eager", fullgraph=True, dynamic=True)
    for shape in ((2, 8, 2, 2), (3, 8, 4, 3), (5, 8, 3, 7)):
        (x,) = feature_maps(module, shape)
        torch.testing.assert_close(same(x), module(x), rtol=0, atol=0)


@pytest.mark.slow
def test_inductor_keeps_the_operator():
    block, x = create_block("channel-spatial"), torch.randn(2, 4, 4, 3).requires_grad_()
    _, expected = results(copy.deepcopy(block), x)
    block.compile(fullgraph=True)
    _, found = results(block, x)
    torch.testing.assert_close(found["output"], expected["output"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found["d_input 0"], expected["d_input 0"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_exported_and_traced_graphs_hold_plain_operations(name, launches):
    module = create_any(name).eval()
    maps = tuple(x.detach() for x in feature_maps(module, SHAPE))
    expected = module(*maps)
    count = len(launches)
    exported = torch.export.export(module, maps)
    traced = torch.jit.trace(module, maps, check_trace=False)
    for graph in (exported.graph_module.code, str(traced.inlined_graph)):
        assert "attend" not in graph
    for found in (exported.module()(*maps), traced(*maps)):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert len(launches) == count


@pytest.mark.slow
def test_onnx_holds_plain_operations(launches):
    onnx = pytest.importorskip("onnx")
    module = create_any("channel-spatial").eval()
    file = io.BytesIO()
    torch.onnx.export(module, tuple(feature_maps(module, SHAPE)), file, dynamo=True)
    operators = {node.op_type for node in onnx.load_from_string(file.getvalue()).graph.node}
    assert "Conv" in operators
    assert not launches


def test_transforms_take_the_reference(launches):
    module = create_any("channel-spatial").eval()
    plain = copy.deepcopy(module)
    plain.implementation = "reference"
    x = feature_maps(module, SHAPE)[0].detach()
    state = {name: value.detach() for name, value in module.named_parameters()}

    def gradients(of, image):
        return grad(lambda state: functional_call(of, state, (image[None],)).square().sum())(state)

    torch.testing.assert_close(gradients(module, x[0]), gradients(plain, x[0]))
    each, want = (vmap(lambda image, of=of: gradients(of, image))(x) for of in (module, plain))
    torch.testing.assert_close(each, want)
    assert not launches
