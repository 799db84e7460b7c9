"""The command ``cbam-lightning benchmark``: what it prints, writes and refuses."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from cbam_lightning.benchmarks.measurements import Measurement, Report
from cbam_lightning.benchmarks.options import ReadingOptions
from tests.command import call

TINY = "--shapes 2x16x4x3 --repeats 1 --no-compiled --memory-format channels_last"


def test_help_imports_nothing():
    code = (
        "import sys; from cbam_lightning.cli.main import main; "
        "kinds = ([], ['attention'], ['network'], ['data'], ['gradcam'], ['loop']); "
        "codes = [main(['benchmark', *kind, '--help']) for kind in kinds]; "
        "heavy = {'torch', 'numpy', 'matplotlib', 'tqdm', 'timm'} & set(sys.modules); "
        "assert codes == [0] * 6 and not heavy, (codes, heavy)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: cbam-lightning benchmark") == 6


def test_attention_prints_tables_and_writes_nothing_unasked(capsys, tmp_path):
    torch.set_num_threads(2)
    assert call("benchmark attention eca", TINY, "--threads 1") == 0
    text = capsys.readouterr().out
    titles = ["eca, forward, ms", "eca, forward + backward, ms", "eca, saved for the backward pass, bytes"]
    assert all(f"{title}, lower is better\n" in text for title in titles)
    assert text.count("\n2x16x4x3 channels_last\n") == 3
    assert " threads 1," in text.replace("\n", " ")
    assert max(map(len, text.splitlines())) <= 110
    assert not list(tmp_path.iterdir())


def test_reports_are_written_to_a_folder_and_never_overwritten(capsys, tmp_path):
    out = tmp_path / "a" / "b"
    assert call("benchmark attention se", TINY, f"--out {out}") == 0
    text = capsys.readouterr().out
    quantities = ("forward", "forward_backward", "saved_bytes")
    names = {f"attention_{quantity}.{ending}" for quantity in quantities for ending in ("json", "png")}
    assert {path.name for path in out.iterdir()} == names
    assert all(str(out / name) in text for name in names)
    rows = json.loads((out / "attention_saved_bytes.json").read_text())["rows"]
    kept = {row["candidate"]: row["values"] for row in rows}
    assert kept["one map"] == [4 * 2 * 16 * 4 * 3]
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert call("benchmark attention cbam", TINY, f"--out {out}") == 2
    assert "already exists" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_a_network_is_measured_beside_another_report(capsys, tmp_path):
    (tmp_path / "attention_forward.json").touch()
    options = "--attention se eca --batch-size 2 --size-px 8 --in-channels 1 --repeats 1 --no-compiled"
    assert call("benchmark network resnet20", options, f"--out {tmp_path}") == 0
    text = capsys.readouterr().out
    for candidate in ("plain", "se authors", "se reference", "eca reference"):
        assert text.count(f"\n {candidate} ") == 2
    assert "batch 2, 8 px, channels_first" in text
    assert {path.name for path in tmp_path.glob("network*")} == {
        f"network_{quantity}.{ending}" for quantity in ("step", "saved_bytes") for ending in ("json", "png")
    }


def test_the_loop_is_measured(capsys):
    assert call("benchmark loop --attention none --batch-size 2 --steps 1 --repeats 1") == 0
    text = capsys.readouterr().out
    assert text.startswith("resnet20 + none, training loop, images/s, higher is better\n")
    assert "x plain loop" in text
    assert "\n fit " in text


def test_gradcam_is_measured_beside_its_passes(capsys):
    assert call("benchmark gradcam resnet18 --attention se --batch-size 2 --size-px 64 --repeats 1") == 0
    text = capsys.readouterr().out
    assert text.startswith("Grad-CAM of resnet18 with attention se at layer4, ms, lower is better\n")
    for candidate in ("forward, backward to the layer", "Grad-CAM", "Grad-CAM and gates"):
        assert f"\n {candidate} " in text


def test_reading_images_is_handed_to_its_layer(capsys, monkeypatch, tmp_path):
    given = []

    def time_reading(options):
        given.append(options)
        rows = [Measurement("raw", "PIL", [2.0])]
        return [Report("data", "reading", "images/s", rows, "PIL", lower_is_better=False)]

    module = SimpleNamespace(time_reading=time_reading)
    monkeypatch.setitem(sys.modules, "cbam_lightning.benchmarks.time_reading", module)
    assert call("benchmark data") == 0
    assert call(f"benchmark data --root photos --images 5 --repeats 2 --out {tmp_path}") == 0
    assert given == [
        ReadingOptions(root=None, images=64, repeats=7),
        ReadingOptions(root="photos", images=5, repeats=2),
    ]
    assert capsys.readouterr().out.startswith("reading, images/s, higher is better\n")
    assert {path.name for path in tmp_path.iterdir()} == {"data.json", "data.png"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", ["required", "attention", "network", "data", "loop", "--help"]),
        ("attentoin", ["attentoin", "'attention'"]),
        ("attention cbma", ["unknown attention 'cbma'", "Did you mean 'cbam'"]),
        ("attention --shapes 16x256x56", ["'16x256x56'", "NxCxHxW"]),
        ("attention --shapes 16x256x56x0", ["'16x256x56x0'", "at least 1"]),
        ("attention --repeats 0", ["repeats is 0", "at least 1"]),
        ("attention --threads 0", ["threads is 0", "at least 1"]),
        ("attention --memory-format chanels_last", ["Did you mean 'channels_last'"]),
        ("attention --device gpu", ["device is 'gpu'", "cpu"]),
        ("network resnet51", ["unknown model 'resnet51'", "resnet50"]),
        ("network resnet20 --attention none", ["'none'", "plain"]),
        ("network resnet20 --batch-size 0", ["batch_size is 0", "at least 1"]),
        ("network resnet20 --size-px x", ["--size-px", "'x'"]),
        ("data --images 0", ["images is 0", "at least 1"]),
        ("gradcam --repeats 0", ["repeats is 0", "at least 1"]),
        ("loop --steps 0", ["steps is 0", "at least 1"]),
        ("network --precision fp8", ["precision 'fp8'", "32, bf16, fp16"]),
        ("loop --compile-mode reduce-overhead", ["CUDA graphs", "'cpu'"]),
        ("loop --out file", ["file already exists", "another folder"]),
    ],
)
def test_a_mistake_is_one_line(words, expected, capsys, tmp_path):
    (tmp_path / "file").touch()
    assert call(f"benchmark {words}") == 2
    error = capsys.readouterr().err
    assert error.startswith("cbam-lightning: error: ")
    assert error.count("\n") == 1
    for part in expected:
        assert part in error
