"""Every registered attention, in every precision and environment."""

import copy
import pickle

import pytest
import torch

from cbam_lightning.attention import create_attention
from cbam_lightning.attention.registry import option_defaults, option_names
from cbam_lightning.errors import UsageError
from tests.attention.cases import (
    EVERY_CASE,
    HALF,
    IDENTITY,
    MODE,
    NAMES,
    cases,
    create,
    fitting,
    identity_cases,
    refused_identity_cases,
)
from tests.attention.checks import assert_survives_large_inputs, images, randomised
from tests.attention.operations import OperationNames


def without_effect(module, x):
    """Name the parameters that change nothing: a bias before BatchNorm or softmax, a context's weights."""
    module = randomised(copy.deepcopy(module))
    output = module(x)
    output.square().mean().backward()
    unused = {name: p for name, p in module.named_parameters() if p.grad.abs().max() < 1e-12}
    for parameter in unused.values():
        torch.nn.init.normal_(parameter)
    torch.testing.assert_close(module(x), output, rtol=1e-12, atol=1e-12)
    return unused.keys()


# Whether the module trains, and the precision of autocast. A compilation takes a second.
COMPILED = [
    (True, None),
    (False, torch.float16),
    *(pytest.param(*mode, marks=pytest.mark.slow) for mode in ((True, torch.bfloat16), (False, None))),
]


def breaks_the_graph(*args):
    """Stand in for a function that the compiler of a supported version of torch does not know."""
    raise AssertionError("torch.compile of torch 2.11 does not know this function")


def has_the_same_layers_in_every_dimension(name, options):
    """Return whether no layer is one of an axis, such as the height."""
    return len({tuple(create(name, options, dims=dims).state_dict()) for dims in (1, 2, 3)}) == 1


class TestDimensions:
    @pytest.mark.parametrize(
        ("name", "options"),
        [case for case in cases() if has_the_same_layers_in_every_dimension(*case.values)],
    )
    @MODE
    @pytest.mark.parametrize("dims", [1, 2])
    def test_a_map_that_is_one_thin_in_three_dimensions_is_one_of_fewer(self, name, options, dims, training):
        solid = create(name, options, dims=3).double().train(training)
        flat = create(name, options, dims=dims).double().train(training)
        state = {}
        for key, value in solid.state_dict().items():
            while value.ndim > flat.state_dict()[key].ndim:
                value = value[:, :, value.shape[2] // 2]  # only the middle of the kernel meets the map
            state[key] = value
        flat.load_state_dict(state)
        x = images(3, 8, *(7, 5)[:dims])
        thin = x.reshape(3, 8, *[1] * (3 - dims), *x.shape[2:])
        torch.testing.assert_close(solid(thin).reshape(x.shape), flat(x), rtol=1e-12, atol=1e-12)

    @EVERY_CASE
    @pytest.mark.parametrize("dims", [1, 2, 3])
    def test_every_position_passes_a_gradient(self, name, options, dims):
        x = images(2, 8, *(5, 4, 3)[:dims]).requires_grad_()
        output = create(name, options, dims=dims).double().eval()(x)
        assert output.shape == x.shape
        output.sum().backward()
        assert (x.grad != 0).all()

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("shape", [(2, 8), (2, 8, 1, 1, 1, 1)])
    def test_no_positions_or_too_many_dimensions_are_refused(self, name, shape):
        with pytest.raises(
            UsageError, match=rf"takes \(N, C, .*but was given \({', '.join(map(str, shape))}\)"
        ):
            create_attention(name, 8)(torch.zeros(shape))

    @pytest.mark.parametrize("name", [name for name in NAMES if "dims" in option_names(name)])
    @pytest.mark.parametrize(("dims", "given"), [(1, 2), (2, 3), (3, 1)])
    def test_other_dimensions_than_it_was_made_for_are_refused(self, name, dims, given):
        module = create_attention(name, 8, dims=dims)
        with pytest.raises(
            UsageError, match=f"was made with dims={dims} and takes .*Make it with dims={given}"
        ):
            module(torch.zeros(2, 8, *[3] * given))


class TestIdentity:
    @IDENTITY
    @MODE
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
    def test_returns_its_input_bit_for_bit(self, name, options, training, dtype):
        x = 100 * images(2, 8, 5, 4).to(dtype)
        assert torch.equal(create_attention(name, 8, **options).train(training)(x), x)

    @pytest.mark.parametrize(("name", "options"), identity_cases(but_none=True))
    @MODE
    def test_learns(self, name, options, training):
        torch.manual_seed(0)
        module = create_attention(name, 32, **options).double().train(training)
        optimizer, x = torch.optim.SGD(module.parameters(), lr=0.1), images(4, 32, 5, 4)
        learns = set()
        for _ in range(3):
            optimizer.zero_grad()
            (module(x) ** 2).mean().backward()
            learns |= {key for key, p in module.named_parameters() if p.grad.abs().max() > 1e-12}
            optimizer.step()
            assert not torch.equal(module(x), x)
        assert learns == dict(module.named_parameters()).keys() - without_effect(module, x)

    @pytest.mark.parametrize(("name", "options"), refused_identity_cases())
    def test_what_cannot_start_as_it_says_why_and_what_to_do(self, name, options):
        published = option_defaults(name)["gate"]
        with pytest.raises(UsageError, match=f"identity.*{published}") as caught:
            create_attention(name, 8, **options)
        assert "\n" not in str(caught.value)
        create_attention(name, 8, **options | {"gate": published})


class TestPrecision:
    @EVERY_CASE
    @MODE
    @HALF
    def test_large_inputs_do_not_overflow(self, name, options, training, dtype):
        assert_survives_large_inputs(create_attention(name, 8, **options).train(training), dtype)
        assert_survives_large_inputs(create(name, options).train(training), dtype)

    @IDENTITY
    @HALF
    def test_autocast_does_not_round_the_attention(self, name, options, dtype):
        module = create(name, options).eval()
        x = images(2, 8, 5, 4, dtype=torch.float32)
        with torch.autocast("cpu", dtype=dtype):
            inside = module(x)
        assert inside.dtype == torch.float32
        assert torch.equal(inside, module(x))

    @EVERY_CASE
    @MODE
    @HALF
    def test_a_converted_module_computes_in_float32(self, name, options, training, dtype):
        converted = create(name, options).to(dtype).train(training)
        wide = copy.deepcopy(converted).float()
        x = images(4, 8, 5, 4, dtype=torch.float32).to(dtype)
        output = converted(x.requires_grad_())
        assert torch.equal(output, wide(x))
        for got, expected in zip(converted.buffers(), wide.buffers(), strict=True):
            assert torch.equal(got, expected.to(got.dtype))
        output.sum().backward()
        assert all(p.grad.dtype == dtype and p.grad.isfinite().all() for p in converted.parameters())

    @EVERY_CASE
    def test_half_precision_input_needs_no_autocast(self, name, options):
        module = create(name, options).eval()
        x = images(2, 8, 5, 4).bfloat16()
        torch.testing.assert_close(module(x).float(), module(x.float()), rtol=0.02, atol=1e-6)

    @EVERY_CASE
    def test_few_channels_leave_a_hidden_unit(self, name, options):
        x = images(2, 3, 5, 4).requires_grad_()
        module = create(name, fitting(name, options, 3), channels=3).double().eval()
        module(x).sum().backward()
        assert (x.grad != 0).all()
        assert all(0 not in parameter.shape for parameter in module.parameters())


@EVERY_CASE
class TestSurroundings:
    @pytest.mark.parametrize("dims", [1, 2, 3])
    def test_runs_in_deterministic_mode_and_nothing_that_is_not_on_cuda(self, name, options, dims):
        module = create(name, options, dims=dims)
        x = images(2, 8, *(5, 4, 3)[:dims], dtype=torch.float32).requires_grad_()
        torch.use_deterministic_algorithms(True)
        try:
            with OperationNames() as operations:
                module(x).sum().backward()
        finally:
            torch.use_deterministic_algorithms(False)
        assert operations.names
        assert not operations.not_deterministic()

    def test_channels_last_is_kept(self, name, options):
        x = images(2, 8, 5, 4, dtype=torch.float32).to(memory_format=torch.channels_last)
        assert create(name, options)(x).is_contiguous(memory_format=torch.channels_last)

    @pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
    def test_copies_compute_the_same(self, name, options, duplicate):
        module, x = create(name, options).eval(), images(2, 8, 5, 4, dtype=torch.float32)
        assert torch.equal(duplicate(module)(x), module(x))

    def test_state_dict_restores_the_module(self, name, options):
        source, target = create(name, options).eval(), create_attention(name, 8, **options).eval()
        x = images(2, 8, 5, 4, dtype=torch.float32)
        assert torch.equal(target(x), source(x)) == (not source.state_dict())
        target.load_state_dict(source.state_dict())
        assert torch.equal(target(x), source(x))

    def test_exports(self, name, options):
        module, x = create(name, options).eval(), images(3, 8, 5, 4, dtype=torch.float32)
        program = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
        assert not [node for node in program.graph.nodes if "promote_types" in str(node.target)]
        torch.testing.assert_close(program.module()(x[:2]), module(x[:2]))

    def test_runs_on_the_meta_device(self, name, options):
        with torch.device("meta"):
            assert create_attention(name, 8, **options)(torch.empty(2, 8, 5, 4)).shape == (2, 8, 5, 4)


@EVERY_CASE
@pytest.mark.parametrize(("training", "autocast"), COMPILED)
def test_compiles_to_one_graph(name, options, training, autocast, monkeypatch):
    monkeypatch.setattr(torch.amp, "is_autocast_available", breaks_the_graph)
    torch.compiler.reset()
    module = create(name, options).train(training)
    x = images(2, 8, 5, 4).to(autocast or torch.float32).requires_grad_()
    backend = "eager" if autocast else "aot_eager"  # the second also traces the backward pass
    compiled = torch.compile(copy.deepcopy(module), backend=backend, fullgraph=True)

    def run(module):
        with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
            output = module(x)
        return output, *torch.autograd.grad(output.float().sin().sum(), [x, *module.parameters()])

    for got, expected in zip(run(compiled), run(module), strict=True):
        assert got.dtype == expected.dtype
        tolerance = 0.02 * float(expected.detach().abs().max()) if autocast else 1e-5
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=tolerance)
