"""The comparison of attention modules. Nothing here depends on how fast the machine is."""

import pytest
import torch

from cbam_lightning.attention import CBAM, list_attention
from cbam_lightning.attention.implementation import choose_compiled, has_compiler
from cbam_lightning.benchmarks import time_attention as benchmark
from cbam_lightning.benchmarks.clocks import event_clock
from cbam_lightning.benchmarks.measurements import Measurement
from cbam_lightning.benchmarks.options import AttentionOptions
from cbam_lightning.benchmarks.time_attention import implementations, parse_shape, time_attention
from cbam_lightning.errors import UsageError

SHAPE, MAP = "2x32x4x3", 4 * 2 * 32 * 4 * 3  # bytes
EAGER = ["authors", "reference", "timm"]
FORMATS = ("channels_first", "channels_last")


@pytest.fixture
def timed(monkeypatch):
    """Replace the clock: the first candidate takes 1 s, the second 2 s, …; return what it was given."""
    given = []

    def alternate(candidates, repeats, warmup, device, description, clock):
        assert clock is event_clock
        given.append(candidates)
        return {name: [1.0 + i] * repeats for i, name in enumerate(candidates)}

    monkeypatch.setattr(benchmark, "alternate", alternate)
    return given


def measure(name="cbam", shapes=(SHAPE,), **options):
    given = {"name": name, "shapes": shapes, "repeats": 2, "compiled": False} | options
    reports = time_attention(AttentionOptions(**given))
    return {report.name.removeprefix("attention_"): report for report in reports}


def values(report):
    return {row.candidate: row.values for row in report.rows}


def test_a_small_run_measures_every_form_in_every_format():
    pytest.importorskip("timm")
    found = measure()
    baselines = {"forward": "copy", "forward_backward": "copy", "saved_bytes": "one map"}
    assert {name: report.baseline for name, report in found.items()} == baselines
    for report in found.values():
        groups = report.groups()
        assert list(groups) == [f"{SHAPE} {memory_format}" for memory_format in FORMATS]
        for rows in groups.values():
            assert [row.candidate for row in rows] == [report.baseline, *EAGER]
            assert all(value > 0 for row in rows for value in row.values)
            assert {len(row.values) for row in rows} == {1 if report.unit == "bytes" else 2}
        assert report.setting == {"repeats": 2, "dtype": "float32", "device": "cpu"}


@pytest.mark.parametrize("memory_format", FORMATS)
def test_the_bytes_of_se_are_those_of_its_tensors(memory_format, timed):
    # the map, its means, the hidden layer behind the ReLU, and the gate
    expected = MAP + 4 * (2 * 32 + 2 * (32 // 16) + 2 * 32)
    found = values(measure("se", memory_format=[memory_format])["saved_bytes"])
    assert found.pop("one map") == [MAP]
    assert set(found) >= {"authors", "reference"}
    assert set(map(tuple, found.values())) == {(expected,)}


def test_seconds_become_milliseconds(timed):
    found = measure("bam", memory_format=["channels_last"])
    for name in ("forward", "forward_backward"):
        assert found[name].unit == "ms"
        assert values(found[name]) == {"copy": [1e3] * 2, "authors": [2e3] * 2, "reference": [3e3] * 2}


@pytest.mark.parametrize("memory_format", FORMATS)
def test_what_is_timed_is_a_copy_a_forward_and_a_backward_pass(memory_format, timed):
    measure("cbam", memory_format=[memory_format])
    forward, step = timed
    layout = benchmark.LAYOUTS[memory_format]
    output, copies = forward["reference"](), [forward["copy"](), step["copy"]()]
    torch.testing.assert_close(forward["authors"](), output)
    for result in (output, *copies):
        assert result.shape == (2, 32, 4, 3)
        assert result.is_contiguous(memory_format=layout)
    assert output.requires_grad
    gradients = {name: step[name]() for name in ("authors", "reference")}
    # the input, two layers with biases, a convolution and a BatchNorm
    assert [g.shape for g in gradients["reference"]][:2] == [(2, 32, 4, 3), (2, 32)]
    assert len(gradients["reference"]) == 1 + 4 + 1 + 2
    torch.testing.assert_close(gradients["authors"], gradients["reference"])
    torch.testing.assert_close(step["reference"](), gradients["reference"])  # they do not add up


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_in_half_precision_the_map_has_it_and_the_module_runs_under_autocast(precision, dtype, timed):
    found = measure("se", memory_format=["channels_last"], precision=precision)
    forward, step = timed
    assert {forward[name]().dtype for name in ("copy", "reference", "authors")} == {dtype}
    gradients = step["reference"]()
    assert [gradient.dtype for gradient in gradients] == [dtype, *[torch.float32] * 4]
    assert gradients[0].is_contiguous(memory_format=torch.channels_last)
    assert values(found["saved_bytes"])["one map"] == [MAP // 2]
    assert found["forward"].setting["dtype"] == f"{str(dtype).removeprefix('torch.')} autocast"


def test_what_only_a_gpu_has_is_reported_for_both_passes(timed, monkeypatch):
    def device_figures(group, steps, device, repeats):
        assert list(steps) == ["authors", "reference"]
        return {"kernels": [Measurement(group, name, [40 + i]) for i, name in enumerate(steps)]}

    monkeypatch.setattr(benchmark, "device_figures", device_figures)
    kernels = measure("bam", memory_format=["channels_last"])["kernels"]
    assert (kernels.unit, kernels.baseline) == ("kernels", "reference")
    assert "forward + backward" in kernels.title
    assert values(kernels) == {"authors": [40], "reference": [41]}


@pytest.mark.parametrize("name", list_attention())
def test_every_attention_can_be_measured(name, timed):
    found = measure(name, memory_format=["channels_first"])
    assert all("reference" in values(report) for report in found.values())
    kept = values(found["saved_bytes"])["reference"][0]
    assert kept >= MAP if name != "none" else kept == 0


def test_every_shape_is_a_group(timed):
    found = measure("eca", [SHAPE, "3x8x4x4"], memory_format=["channels_last"])
    for report in found.values():
        assert list(report.groups()) == [f"{SHAPE} channels_last", "3x8x4x4 channels_last"]
    assert [row.values for row in found["saved_bytes"].rows if row.candidate == "one map"] == [[MAP], [1536]]


def test_a_shape_or_format_that_is_given_twice_is_measured_once(timed):
    found = measure("none", [SHAPE, SHAPE], memory_format=["channels_first"] * 2)
    assert found["forward"].groups().keys() == {f"{SHAPE} channels_first"}
    assert found["forward"].mean_ratios() == {"copy": 1, "reference": 2}


def test_forms_of_ours_have_the_same_parameters_and_none_is_0():
    forms = implementations("cbam", 16, compiled=True)
    assert list(forms) == ["authors", "reference", "fused", "timm", "timm compiled"]
    assert list(implementations("cbam", 16, compiled=False)) == EAGER
    assert all(form.training for form in forms.values())
    assert forms["fused"].implementation == "fused"
    assert forms["reference"].implementation == "reference"
    reference, fused = forms["reference"].state_dict(), forms["fused"].state_dict()
    assert reference.keys() == fused.keys()
    assert all(torch.equal(value, fused[key]) for key, value in reference.items())
    for name in ("authors", "reference", "fused"):
        assert all(parameter.all() for parameter in forms[name].parameters())


@pytest.mark.slow
def test_what_is_compiled_is_measured_with_its_first_step():
    found = measure(memory_format=["channels_first"], compiled=True)
    compiled = ["fused", "timm compiled"]
    assert list(values(found["first_step"])) == compiled
    assert found["first_step"].unit == "s"
    assert found["first_step"].baseline is None
    for name in ("forward", "forward_backward"):
        assert list(values(found[name])) == ["copy", "authors", "reference", "fused", "timm", "timm compiled"]
        medians = {row.candidate: row.median for row in found[name].rows}
        first = values(found["first_step"])
        assert all(1e3 * first[candidate][0] > medians[candidate] for candidate in compiled)
    kept = values(found["saved_bytes"])
    assert MAP <= kept["fused"][0] < kept["reference"][0]


def test_a_shape_is_four_numbers():
    assert parse_shape("16x256x56x7") == (16, 256, 56, 7)
    for text in ("16x256x56", "16x256x56x56x1", "16x256x0x56", "16x256x56x-1", "16x256x56x", "1x1x1x1.0", ""):
        with pytest.raises(UsageError, match="give NxCxHxW, four whole numbers of at least 1"):
            parse_shape(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "cban"}, "unknown attention 'cban'. Did you mean 'cbam'"),
        ({"shapes": ["16x256x56"]}, "shape is '16x256x56'"),
        ({"shapes": ["9999999x9999999x99x99"]}, "does not fit into the memory of cpu"),
        ({"shapes": ["99999999999999999999x1x1x1"]}, "does not fit into the memory of cpu"),
        (
            {"shapes": ["1x16x1x1"]},
            "possible on 1x16x1x1 channels_first: Expected more than 1 value",
        ),
        ({"name": "bam", "shapes": ["1x16x4x4"]}, r"BAM was given \(1, 16, 4, 4\) in training"),
        ({"memory_format": ["channel_last"]}, "Did you mean 'channels_last'"),
        ({"repeats": 0}, "repeats is 0"),
        ({"device": "abacus"}, "device is 'abacus'"),
        ({"precision": "bf17"}, "Did you mean 'bf16'"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(UsageError, match=message):
        measure(**options)


def _choice(compiled):
    has_compiler.cache_clear()
    try:
        return choose_compiled(compiled, torch.device("cpu"))
    finally:
        has_compiler.cache_clear()


def test_a_compiler_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert _choice(None) is False
    assert _choice(False) is False
    with pytest.raises(UsageError, match=r"needs a C\+\+ compiler"):
        _choice(True)
    compiler = tmp_path / "g++"
    compiler.touch(mode=0o755)
    assert _choice(None) is True
    assert _choice(True) is True
    assert _choice(False) is False
    compiler.rename(tmp_path / "mine")
    assert _choice(None) is False
    monkeypatch.setenv("CXX", "mine")
    assert _choice(None) is True


class OwnCBAM(CBAM):
    """A subclass, which has no fused form."""


def test_a_form_that_would_run_the_reference_is_not_called_fused():
    forms = implementations(f"{__name__}.OwnCBAM", 16, compiled=True)
    assert "reference" in forms
    assert "fused" not in forms
