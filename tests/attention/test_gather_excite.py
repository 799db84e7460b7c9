"""Gather-excite against its formula, and against timm."""

import functools
import itertools

import pytest
import torch
from timm.layers.gather_excite import GatherExcite as Timm
from timm.layers.mlp import ConvMlp
from torch import nn

from cbam_lightning import insert_attention
from cbam_lightning.attention import GatherExcite, SqueezeExcite
from cbam_lightning.errors import UsageError
from tests.attention import literal
from tests.attention.checks import assert_equals_literal, assert_survives_large_inputs, images, randomised

CHANNELS = 8
SHAPES = {1: (3, CHANNELS, 9), 2: (3, CHANNELS, 7, 4), 3: (3, CHANNELS, 3, 6, 2)}
DIMS = pytest.mark.parametrize("dims", SHAPES)
GATES = pytest.mark.parametrize("gate", ["sigmoid", "identity"])
MODE = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


def windows_of(length, extent):
    """List the positions of every window of 2 * extent - 1, around each multiple of the extent."""
    if extent == 0:
        return [range(length)]
    return [range(max(0, i - extent + 1), min(length, i + extent)) for i in range(0, length, extent)]


def mean_of_windows(x, extent):
    along = [windows_of(length, extent) for length in x.shape[2:]]
    cells = []
    for window in itertools.product(*along):
        inside = x[:, :, *(slice(w.start, w.stop) for w in window)].flatten(2)
        cells.append(inside.sum(2) / inside.shape[2])
    return torch.stack(cells, dim=2).reshape(*x.shape[:2], *map(len, along))


def depthwise(x, kernels, stride, padding):
    """Slide one (1, *sides) kernel a channel over the zero-padded map, ``stride`` positions at a time."""
    lengths, sides = x.shape[2:], kernels.shape[2:]
    padded = x.new_zeros(*x.shape[:2], *(length + 2 * padding for length in lengths))
    padded[:, :, *(slice(padding, padding + length) for length in lengths)] = x
    reach = [length - side + 1 for length, side in zip(padded.shape[2:], sides, strict=True)]
    total = 0
    for tap in itertools.product(*map(range, sides)):
        window = [slice(i, i + n, stride) for i, n in zip(tap, reach, strict=True)]
        weight = kernels[:, 0, *tap].reshape(-1, *[1] * len(sides))
        total = total + weight * padded[:, :, *window]
    return total


def convolved(x, weights, extent, training):
    layers = [name.split(".")[1] for name in weights if name.startswith("gather.conv")]
    for i, conv in enumerate(layers, 1):
        stride, padding = (2, 1) if extent else (1, 0)
        x = depthwise(x, weights[f"gather.{conv}.weight"], stride, padding)
        x = literal.normalise_layer(x, weights, f"gather.bn{i}", training)
        x = x.clamp(min=0) if i < len(layers) else x
    return x


def stretched(cells, lengths):
    for axis, length in enumerate(lengths, 2):
        number = cells.shape[axis]
        cells = torch.stack([cells.select(axis, p * number // length) for p in range(length)], dim=axis)
    return cells


def formula(x, weights, extent, gather, excite, gate, training):
    cells = convolved(x, weights, extent, training) if gather == "conv" else mean_of_windows(x, extent)
    if excite != "none":
        cells = cells.clamp(min=0) if excite == "relu+mlp" else cells
        cells = literal.convolve_layer(cells, weights, "mlp.fc1").clamp(min=0)
        cells = literal.convolve_layer(cells, weights, "mlp.fc2")
    return x * stretched(literal.sigmoid(cells, gate), x.shape[2:])


def create(extent=0, gather="mean", excite="none", dims=2, shape=None, **options):
    size = (shape or SHAPES[dims])[2:] if gather == "conv" and extent == 0 else None
    return randomised(GatherExcite(CHANNELS, extent, gather, excite, 1, size, dims, **options).double())


@DIMS
@pytest.mark.parametrize("extent", [0, 2, 3, 4, 8])
@pytest.mark.parametrize("excite", ["none", "mlp", "relu+mlp"])
def test_means_equal_their_formula(excite, extent, dims):
    for gate in ("sigmoid", "identity") if excite != "none" else ("sigmoid",):
        module = create(extent, "mean", excite, dims, gate=gate)
        literally = functools.partial(
            formula, extent=extent, gather="mean", excite=excite, gate=gate, training=False
        )
        assert_equals_literal(module, literally, SHAPES[dims])


@DIMS
@pytest.mark.parametrize("extent", [0, 2, 4])
@pytest.mark.parametrize("excite", ["none", "relu+mlp"])
@GATES
@MODE
def test_convolutions_equal_their_formula(training, gate, excite, extent, dims):
    module = create(extent, "conv", excite, dims, gate=gate).train(training)
    literally = functools.partial(
        formula, extent=extent, gather="conv", excite=excite, gate=gate, training=training
    )
    assert_equals_literal(module, literally, SHAPES[dims])


@pytest.mark.parametrize("gather", ["mean", "conv"])
@pytest.mark.parametrize("shape", [(2, 8, 1, 1), (2, 8, 1, 7), (2, 8, 3, 2), (2, 8, 5, 13), (2, 8, 8, 16)])
def test_the_extent_need_not_fit_the_map(shape, gather):
    module = create(4, gather, shape=shape).eval()
    x = images(*shape)
    expected = formula(x, module.state_dict(), 4, gather, "none", "sigmoid", training=False)
    torch.testing.assert_close(module(x), expected, rtol=1e-12, atol=1e-12)


class TestTimm:
    """Release 1.0.31 of timm cannot build what has layers, so they are given to it here."""

    @pytest.mark.parametrize("extent", [0, 2, 4, 8])
    @pytest.mark.parametrize("size", [(14, 14), (7, 10)])
    @pytest.mark.parametrize("gather", ["mean", "conv"])
    @pytest.mark.parametrize("excite", ["none", "mlp", "relu+mlp"])
    def test_equals_timm(self, excite, gather, size, extent):
        ours = GatherExcite(
            16, extent, gather, excite, size=size if (gather, extent) == ("conv", 0) else None
        )
        randomised(ours).eval()
        theirs = Timm(16, extent=extent, use_mlp=False)
        if gather == "conv":
            theirs.gather = self.gather_of(ours, extent, size)
        if excite != "none":
            theirs.mlp = ConvMlp(16, 1, act_layer=nn.ReLU)
            theirs.mlp.load_state_dict(ours.mlp.state_dict())
        if excite == "relu+mlp":  # the authors' ReLU, which timm leaves out
            theirs.mlp = nn.Sequential(nn.ReLU(), theirs.mlp)
        x = images(2, 16, *size, dtype=torch.float32)
        torch.testing.assert_close(ours(x), theirs.eval()(x), rtol=1e-6, atol=1e-6)

    def gather_of(self, ours, extent, size):
        layers = []
        for _ in range(max(1, extent.bit_length() - 1)):
            kernel, stride, padding = (3, 2, 1) if extent else (size, 1, 0)
            layers += [nn.Conv2d(16, 16, kernel, stride, padding, groups=16, bias=False), nn.BatchNorm2d(16)]
            layers += [nn.ReLU()]
        gather = nn.Sequential(*layers[:-1])
        gather.load_state_dict(dict(zip(gather.state_dict(), ours.gather.state_dict().values(), strict=True)))
        return gather


def test_the_global_mean_with_an_mlp_is_squeeze_and_excitation():
    module, se, x = GatherExcite(32, excite="mlp"), randomised(SqueezeExcite(32)), images(2, 32, 5, 4).float()
    for ours, theirs in (("fc1", "0"), ("fc2", "2")):
        layer, linear = module.mlp.get_submodule(ours), se.mlp.get_submodule(theirs)
        layer.weight.data, layer.bias.data = linear.weight.data[:, :, None, None], linear.bias.data
    torch.testing.assert_close(module(x), se(x), rtol=1e-6, atol=1e-6)


@DIMS
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, lambda side: 0),
        ({"extent": 8}, lambda side: 0),
        ({"excite": "mlp"}, lambda side: 64 * 4 + 4 + 4 * 64 + 64),
        ({"gather": "conv", "size": 7}, lambda side: 64 * side(7) + 2 * 64),
        ({"gather": "conv", "extent": 8}, lambda side: 3 * (64 * side(3) + 2 * 64)),
        (
            {"gather": "conv", "extent": 2, "excite": "relu+mlp"},
            lambda side: 64 * side(3) + 2 * 64 + 64 * 4 + 4 + 4 * 64 + 64,
        ),
    ],
)
def test_number_of_parameters(options, expected, dims):
    module = GatherExcite(64, dims=dims, **options)
    assert sum(p.numel() for p in module.parameters()) == expected(lambda length: length**dims)


@pytest.mark.parametrize("options", [{"extent": 8}, {"size": 7}])
def test_it_starts_as_in_the_authors_networks(options):
    torch.manual_seed(0)
    module = GatherExcite(512, gather="conv", excite="relu+mlp", **options)
    for name, parameter in module.named_parameters():
        kind = name.split(".")[1].rstrip("0123456789")
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif kind == "bn":
            assert (parameter == 1).all(), name
        else:
            expected = 0.01 if kind == "fc" else (2 / parameter[0].numel()) ** 0.5
            assert abs(parameter.std() / expected - 1) < 0.05, name
            assert abs(parameter.mean()) < 0.05 * expected, name


@pytest.mark.parametrize(
    ("options", "zero"),
    [
        ({"gather": "conv", "extent": 4}, "gather.bn2.weight"),
        ({"gather": "conv", "size": 5}, "gather.bn1.weight"),
        ({"gather": "conv", "extent": 4, "excite": "relu+mlp"}, "mlp.fc2.weight"),
        ({"excite": "mlp"}, "mlp.fc2.weight"),
    ],
)
def test_the_identity_starts_with_as_few_zeros_as_it_can(options, zero):
    module = GatherExcite(8, gate="identity", **options)
    weights = {name: p for name, p in module.named_parameters() if name.endswith("weight")}
    assert [name for name, weight in weights.items() if not weight.any()] == [zero]
    x = images(3, 8, 5, 5, dtype=torch.float32)
    assert torch.equal(module(x), x)


def test_without_parameters_it_cannot_be_inserted_as_the_identity():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
    with pytest.raises(
        UsageError,
        match=r"has no parameters: it can neither start as .* nor learn\. Use gate='sigmoid'",
    ):
        insert_attention(network, "ge", where="0", example=(1, 3, 8, 8))
    insert_attention(network, "ge", where="0", example=(1, 3, 8, 8), gate="sigmoid")
    assert isinstance(network[0].attention, GatherExcite)


@pytest.mark.parametrize(
    ("extent", "kind", "shape"), [(0, "channel", (2, 8, 1, 1)), (4, "both", (2, 8, 7, 4))]
)
@pytest.mark.parametrize("gather", ["mean", "conv"])
def test_gate_map_is_what_the_input_is_multiplied_with(gather, extent, kind, shape):
    module, x = create(extent, gather).eval(), images(2, 8, 7, 4)
    maps = module.gate_maps(x)
    assert maps.keys() == {kind}
    assert maps[kind].shape == shape
    assert torch.equal(module(x), x * maps[kind])


def test_a_subclass_with_another_gate_multiplies_with_it():
    class Halved(GatherExcite):
        def compute_gate(self, x):
            return super().compute_gate(x) / 2

    x = images(2, 4, 7, 4)
    torch.testing.assert_close(Halved(4, 2)(x), GatherExcite(4, 2)(x) / 2)


@pytest.mark.parametrize(("size", "options"), [((5, 4), {"size": (5, 4)}), ((2, 2), {"extent": 2})])
def test_a_batch_of_one_with_one_cell_is_refused_in_training(size, options):
    module, x = GatherExcite(4, gather="conv", **options), images(1, 4, *size, dtype=torch.float32)
    with pytest.raises(
        UsageError,
        match=r"GatherExcite was given \(1, 4, .* in training, .* needs two\. Use a larger batch",
    ):
        module(x)
    assert module.eval()(x).shape == x.shape


def test_a_batch_of_one_with_several_cells_trains():
    x = images(1, 4, 3, 2, dtype=torch.float32)
    assert GatherExcite(4, 2, "conv")(x).shape == x.shape


@pytest.mark.parametrize("shape", [(2, 4, 7, 6), (2, 4, 9, 9), (2, 4, 8, 7)])
def test_another_map_than_that_of_the_global_kernel_is_refused(shape):
    module = GatherExcite(4, gather="conv", size=8)
    message = rf"kernel for maps of 8 x 8 positions, but was given {shape[2]} x {shape[3]}\. Make it with the"
    for call in (module, module.gate_map):
        with pytest.raises(UsageError, match=message):
            call(torch.zeros(shape))


def test_printing_shows_the_options():
    assert "extent=4, dims=1, gate='sigmoid'" in repr(GatherExcite(8, 4, dims=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "channels is 0; give a whole number of at least 1"),
        ({"reduction": 0}, "reduction is 0"),
        ({"extent": 1}, "extent is 1; give a whole number of at least 2, or 0 for the whole map"),
        ({"extent": -2}, "extent is -2"),
        ({"extent": 2.0}, r"extent is 2\.0"),
        (
            {"extent": 6, "gather": "conv"},
            "extent is 6, but convolutions of stride 2 need a power of 2",
        ),
        ({"gather": "convolution"}, "unknown gather 'convolution'.*Allowed: conv, mean"),
        ({"excite": "relu"}, "unknown excite 'relu'"),
        ({"dims": 4}, "dims is 4"),
        ({"gate": "relu"}, "unknown gate 'relu'"),
        ({"size": 8}, "size is 8, but only gather 'conv' with extent 0 has a kernel of the map's size"),
        ({"size": 8, "gather": "conv", "extent": 2}, "size is 8, but only"),
        (
            {"gather": "conv"},
            "size is None; with extent 0, gather 'conv' needs the map's number",
        ),
        ({"gather": "conv", "size": [8]}, r"size is \[8\]; .* each of its 2 dimensions, as in size=\[8, 8\]"),
        ({"gather": "conv", "size": "88"}, "size is '88'"),
        ({"gather": "conv", "size": 0}, "size is 0; give a whole number of at least 1"),
        ({"gather": "conv", "size": [8, 2.5]}, r"size is 2\.5"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(UsageError, match=message):
        GatherExcite(**{"channels": 8, **options})


class TestGlobalKernel:
    """What holds for every module; its size has to be given, so the tests of all modules leave it out."""

    OPTIONS = {"gather": "conv", "excite": "relu+mlp", "size": (9, 10)}

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_large_inputs_do_not_overflow(self, dtype):
        assert_survives_large_inputs(randomised(GatherExcite(8, **self.OPTIONS)), dtype)

    def test_exports_and_compiles_to_one_graph(self):
        module, x = randomised(GatherExcite(8, **self.OPTIONS)).eval(), images(3, 8, 9, 10).float()
        program = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
        torch.testing.assert_close(program.module()(x[:2]), module(x[:2]))
        compiled = torch.compile(module, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), module(x))
