"""What attention modules take: feature maps of fractions; everything else is refused in one line."""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from cbam_lightning import create_model
from cbam_lightning.attention import (
    CBAM,
    ChannelAttention,
    SpatialAttention,
    create_attention,
)
from cbam_lightning.attention.registry import option_names
from cbam_lightning.errors import UsageError
from tests.attention.cases import NAMES, cases
from tests.attention.checks import images, randomised

# torch deprecates torch.jit and its own quantisation, but networks in the field use them.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning"),
]
FUSED = [(name, {"implementation": "fused"}) for name in NAMES if "implementation" in option_names(name)]
EVERY = pytest.mark.parametrize(("name", "options"), cases(but_none=True) + FUSED)
WHOLE = (torch.int64, torch.int32, torch.uint8, torch.bool)


@pytest.fixture(autouse=True)
def uncompiled():
    with torch.compiler.set_stance("force_eager"):
        yield


def assert_refused(call, *words):
    with pytest.raises(UsageError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    assert all(word in text for word in words), text


@EVERY
class TestEveryModule:
    @pytest.mark.parametrize("dtype", WHOLE)
    def test_whole_numbers_are_refused(self, name, options, dtype):
        module = create_attention(name, 8, **options)
        x = torch.ones(2, 8, 5, 4, dtype=dtype)
        for call in (module, getattr(module, "gate_map", module), getattr(module, "gate_maps", module)):
            assert_refused(lambda call=call: call(x), "takes floating-point numbers", str(dtype), "x.float()")

    def test_complex_and_quantised_numbers_are_refused(self, name, options):
        module, x = create_attention(name, 8, **options), images(2, 8, 5, 4).float()
        assert_refused(lambda: module(x.to(torch.complex64)), "torch.complex64", "x.abs()")
        quantised = torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)
        assert_refused(lambda: module(quantised), "torch.qint8", "x.dequantize()")

    @pytest.mark.parametrize("x", [None, np.zeros((2, 8, 5, 4), "f"), [[1.0]], 3.0, "x", {}], ids=str)
    def test_what_is_no_tensor_is_refused(self, name, options, x):
        module = create_attention(name, 8, **options)
        words = type(module).__name__, "takes a torch.Tensor", type(x).__name__, "torch.from_numpy"
        assert_refused(lambda: module(x), *words)
        if hasattr(module, "gate_map"):  # of a module with several gates, it names the first
            assert_refused(lambda: module.gate_map(x), *words[1:])

    def test_cannot_be_scripted_and_says_what_can_be_done(self, name, options):
        module = create_attention(name, 8, **options)
        words = type(module).__name__, "torch.jit.script", "torch.jit.trace(", "torch.export.export("
        for whole in (module, nn.Sequential(nn.ReLU(), module)):
            assert_refused(lambda whole=whole: torch.jit.script(whole), *words)

    @pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # of checks that need a Python number
    def test_can_be_traced_and_the_trace_scripted(self, name, options):
        module, x = create_attention(name, 8, **options).eval(), images(2, 8, 5, 4).float()
        traced = torch.jit.trace(module, x)
        scripted = torch.jit.script(nn.Sequential(traced, nn.ReLU()))
        for other in (2 * x, images(3, 8, 7, 6).float()):
            torch.testing.assert_close(traced(other), module(other))
        torch.testing.assert_close(scripted(x), module(x).relu())

    def test_cannot_be_traced_by_fx_unless_it_is_a_leaf(self, name, options):
        module = create_attention(name, 8, **options)
        assert_refused(lambda: torch.fx.symbolic_trace(module), "torch.fx", "leaf", "torch.export")


@pytest.mark.parametrize("kind", [ChannelAttention, SpatialAttention])
def test_the_parts_of_cbam_refuse_the_same(kind):
    module = kind(8)
    for x in (None, torch.ones(2, 8, 5, 4, dtype=torch.int64)):
        assert_refused(lambda x=x: module(x), kind.__name__)
    assert_refused(lambda: torch.jit.script(module), "torch.jit.script")


@pytest.mark.parametrize("network", ["resnet8", "mobilenet_v1_cifar", "torchvision/shufflenet_v2_x0_5"])
def test_networks_cannot_be_scripted(network):
    assert_refused(lambda: torch.jit.script(create_model(network)), "torch.jit.script", "torch.jit.trace(")


def test_features_of_a_network_can_be_extracted_around_attention():
    network, x = create_model("resnet8", attention="cbam").eval(), images(2, 3, 32, 32).float()
    leaf = {"leaf_modules": [CBAM]}
    extractor = create_feature_extractor(network, {"layer2": "features"}, tracer_kwargs=leaf)
    torch.testing.assert_close(extractor(x)["features"], network.forward_stages(x)["layer2"])


class TestQuantisedLayers:
    @EVERY
    @pytest.mark.parametrize("dtype", [torch.qint8, torch.float16])
    def test_dynamic_quantisation_changes_little(self, name, options, dtype):
        module, x = randomised(create_attention(name, 64, **options)).eval(), images(2, 64, 5, 4).float()
        quantised = torch.ao.quantization.quantize_dynamic(module, {nn.Linear}, dtype=dtype)
        has_linear = any(isinstance(part, nn.Linear) for part in module.modules())
        is_changed = any("quantized" in type(part).__module__ for part in quantised.modules())
        assert is_changed == has_linear
        expected = module(x)
        assert (quantised(x) - expected).norm() < 0.03 * expected.norm()

    def test_training_mode_and_half_precision_work_too(self):
        module, x = randomised(CBAM(64, implementation="fused")), images(2, 64, 5, 4).half()
        quantised = torch.ao.quantization.quantize_dynamic(module, {nn.Linear}).train()
        output = quantised(x.requires_grad_())
        assert output.dtype == torch.float16
        torch.testing.assert_close(output, module(x), rtol=0.02, atol=0.05)

    def test_a_network_is_quantised_as_a_whole(self):
        torch.manual_seed(0)
        network = create_model("resnet8", attention="cbam", num_classes=10).eval()
        x = images(2, 3, 32, 32).float()
        quantised = torch.ao.quantization.quantize_dynamic(network, {nn.Linear})
        expected = network(x)
        assert (quantised(x) - expected).abs().max() < 0.05 * expected.abs().max()

    def test_layers_without_parameters_get_what_came(self):
        module, x = CBAM(8, implementation="reference").double(), images(2, 8, 5, 4)
        module.spatial.bn = nn.Identity()
        assert module(x).dtype == torch.float64

    def test_whole_weights_do_not_cut_their_input(self):
        class WholeLinear(nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = nn.Parameter(torch.eye(8, dtype=torch.int8), requires_grad=False)

            def forward(self, x):
                return x @ self.weight.to(x.dtype)

        module, x = ChannelAttention(8, pools=["avg"]), images(2, 8, 5, 4).float()
        module.mlp = WholeLinear()
        torch.testing.assert_close(module(x), x * x.mean((2, 3), keepdim=True).sigmoid())
