"""Choice of the implementation."""

import subprocess
import sys

import pytest
import torch

from cbam_lightning.attention import CBAM, SqueezeExcite, create_attention
from cbam_lightning.attention.implementation import MIN_ELEMENTS, fused_form, has_compiler, runs_fused
from cbam_lightning.attention.registry import option_names
from cbam_lightning.errors import UsageError
from tests.attention.cases import NAMES

LARGE = torch.zeros(1).expand(1, 1, 1, MIN_ELEMENTS)


@pytest.fixture(autouse=True)
def with_a_compiler(tmp_path, monkeypatch):
    (tmp_path / "g++").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("TORCH_COMPILE_DISABLE", raising=False)
    has_compiler.cache_clear()
    yield tmp_path
    has_compiler.cache_clear()


def test_auto_is_fused_where_it_pays():
    module = CBAM(4)
    assert runs_fused(module, LARGE)
    assert not runs_fused(module, LARGE[..., 1:])
    assert not runs_fused(module.eval(), LARGE)
    with torch.no_grad():
        assert not runs_fused(module.train(), LARGE)


def test_auto_needs_a_compiler(with_a_compiler, monkeypatch):
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", "1")
    assert not runs_fused(CBAM(4), LARGE)
    monkeypatch.delenv("TORCH_COMPILE_DISABLE")
    (with_a_compiler / "g++").unlink()
    has_compiler.cache_clear()
    assert not runs_fused(CBAM(4), LARGE)
    assert runs_fused(CBAM(4, implementation="fused"), LARGE)


def test_either_can_be_forced():
    fused, small = CBAM(4, implementation="fused").eval(), torch.zeros(1, 4, 2, 2)
    assert runs_fused(fused, small)
    assert not runs_fused(fused, small.to("meta"))
    assert not runs_fused(CBAM(4, implementation="reference"), LARGE)


@pytest.mark.parametrize("kind", [CBAM, SqueezeExcite])
def test_a_fused_form_is_for_exactly_its_class(kind):
    class Derived(kind):
        pass

    x = torch.zeros(1, 4, 2, 2)
    assert fused_form(kind(4))
    assert fused_form(kind(4, implementation="fused"), x)
    assert fused_form(kind(4, implementation="reference"), x) is None
    assert fused_form(Derived(4, implementation="fused"), x) is None
    assert "implementation='reference'" in repr(Derived(4))
    assert fused_form(torch.nn.ReLU()) is None


@pytest.mark.parametrize("name", [name for name in NAMES if "implementation" in option_names(name)])
def test_an_unknown_implementation_is_refused(name):
    with pytest.raises(UsageError, match=r"implementation.*'fusd'.*fused"):
        create_attention(name, 4, implementation="fusd")


def test_what_has_no_fused_form_says_so():
    assert "implementation='auto'" in repr(CBAM(4))
    assert "implementation='fused'" in repr(SqueezeExcite(4, implementation="fused"))
    for options in (
        {"pools": ["lse"]},
        {"pools": ["avg", "lp"]},
        {"pools": ["max"]},
        {"spatial_pool": "conv1x1"},
    ):
        module = CBAM(4, **options, implementation="fused")
        assert "implementation='reference'" in repr(module)
        x = torch.randn(2, 4, 3, 3, requires_grad=True)
        reference = CBAM(4, **options, implementation="reference")
        reference.load_state_dict(module.state_dict())
        assert torch.equal(module(x), reference(x))
        assert "_Scale" not in type(module(x).grad_fn).__name__


def test_nothing_is_compiled_by_a_small_training():
    code = (
        "import sys, torch, cbam_lightning;"
        "m = cbam_lightning.create_model('resnet20', attention='cbam', num_classes=2);"
        "m(torch.zeros(2, 3, 32, 32)).sum().backward(); m.eval()(torch.zeros(40, 3, 64, 64));"
        "assert 'torch._inductor.compile_fx' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
