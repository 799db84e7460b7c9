"""Exported files answer like the network, at other batches and sizes than those they were traced with."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from cbam_lightning import create_model, list_attention
from cbam_lightning.attention.registry import default_placement
from cbam_lightning.errors import UsageError
from cbam_lightning.models import network_export as export_module
from cbam_lightning.models.network_export import export_network
from cbam_lightning.weights import Header, load_checkpoint, save_checkpoint
from tests.command import call

# Exporting takes seconds a block. What stands after every stage but the last needs two of them.
OPTIONS = {
    name: {"depths": [1], "widths": [8]}
    if default_placement(name) == "block"
    else {"depths": [1, 1], "widths": [8, 16]}
    for name in list_attention()
}
SHAPES = [(n, 3, *size) for n in (1, 5) for size in ((16, 16), (24, 20))]


def write_checkpoint(path, attention, seed=0):
    """Write a network whose every value is random, so that no gate is a constant and no statistic trivial."""
    network = create_model("resnet20", attention=attention, num_classes=4, **OPTIONS[attention])
    generator = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2, generator=generator)
        elif value.is_floating_point():
            value.normal_(0, 0.3, generator=generator)
    header = Header(
        "resnet20",
        attention,
        4,
        3,
        network_options=OPTIONS[attention],
        class_names=("a", "b", "c", "d"),
        size_px=16,
    )
    save_checkpoint(path, network.state_dict(), header)
    return network.eval()


@pytest.fixture
def checkpoint(tmp_path):
    write_checkpoint(tmp_path / "net.safetensors", "cbam")
    return tmp_path / "net.safetensors"


def axis_names(path):
    """Return the axes in all the sizes that the file states, which may be expressions, as of PythonMod."""
    graph = pytest.importorskip("onnx").load(path).graph
    values = [*graph.input, *graph.output, *graph.value_info]
    sizes = " ".join(d.dim_param for value in values for d in value.type.tensor_type.shape.dim)
    return re.findall(r"\b[a-z]\w*", sizes)


def assert_agrees(run, network):
    generator = torch.Generator().manual_seed(1)
    for shape in SHAPES:
        images = torch.randn(shape, generator=generator)
        with torch.no_grad():
            expected = network(images)
        assert expected.std() > 1e-3
        torch.testing.assert_close(run(images), expected, rtol=0, atol=1e-4)


def test_a_registered_name_keeps_what_stands_after_its_dot(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "list_weights", lambda: ["net.flowers"])
    monkeypatch.setattr(export_module, "open_checkpoint", lambda _: load_checkpoint(checkpoint))
    assert export_network("net.flowers", to="torch_export").path == Path("net.flowers.pt2")
    assert Path("net.flowers.pt2").is_file()


@pytest.mark.parametrize("attention", list_attention())
def test_onnx_runtime_agrees(attention, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    network = write_checkpoint(tmp_path / "net.safetensors", attention)
    exported = export_network(tmp_path / "net.safetensors", to="onnx")
    assert exported.path == tmp_path / "net.onnx"
    assert exported.dynamic_size
    assert exported.difference <= 1e-4
    session = onnxruntime.InferenceSession(exported.path.read_bytes(), providers=["CPUExecutionProvider"])
    assert [node.shape for node in session.get_inputs()] == [["batch", 3, "height", "width"]]
    assert [node.shape for node in session.get_outputs()] == [["batch", 4]]
    assert set(axis_names(exported.path)) <= {"batch", "height", "width"}
    assert_agrees(lambda x: torch.from_numpy(session.run(None, {"images": x.numpy()})[0]), network)
    header = json.loads(session.get_modelmeta().custom_metadata_map["cbam_lightning"])
    assert header["class_names"] == ["a", "b", "c", "d"]
    assert header["attention"] == attention


@pytest.mark.parametrize("attention", list_attention())
def test_the_program_of_torch_export_agrees(attention, tmp_path):
    network = write_checkpoint(tmp_path / "net.safetensors", attention)
    exported = export_network(tmp_path / "net.safetensors", tmp_path / "out.pt2", to="torch_export")
    metadata = {"cbam_lightning": ""}
    with torch.no_grad():
        assert_agrees(torch.export.load(exported.path, extra_files=metadata).module(), network)
    assert json.loads(metadata["cbam_lightning"])["num_classes"] == 4


def test_the_command_writes_and_says_what(checkpoint, capsys):
    assert call(f"export {checkpoint} --to torch_export") == 0
    text = capsys.readouterr().out
    assert "any batch, any size" in text
    assert str(checkpoint.with_suffix(".pt2")) in text
    assert checkpoint.with_suffix(".pt2").is_file()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--to tflite", "unknown format 'tflite'"),
        ("net.onnx --to torch_export", "should end in .pt2"),
        ("", "--to"),
    ],
)
def test_mistakes_are_one_line(checkpoint, options, expected, capsys):
    assert call(f"export {checkpoint} {options}") == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1


def test_packages_that_are_missing_are_named(checkpoint, monkeypatch):
    monkeypatch.setattr(export_module, "find_spec", lambda name: None if name == "onnxruntime" else name)
    with pytest.raises(UsageError, match=r"ONNX needs onnxruntime; .*cbam_lightning\[onnx\]"):
        export_network(checkpoint, to="onnx")


def test_a_file_that_answers_differently_is_not_written(checkpoint, monkeypatch):
    def scaled(program, header):
        return b"", lambda images: 1.001 * program.module()(images)

    monkeypatch.setattr(export_module, "_to_torch", scaled)
    with pytest.raises(UsageError, match=r"differs from the network by .*nothing was written"):
        export_network(checkpoint, to="torch_export")
    assert not checkpoint.with_suffix(".pt2").exists()


class FixedSize(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3 * 16 * 16, 4)

    def forward(self, x):
        return self.fc(x.flatten(1))


class Untraceable(FixedSize):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else super().forward(-x)


def test_a_network_of_fixed_size_keeps_a_free_batch(checkpoint, monkeypatch):
    network = FixedSize()
    monkeypatch.setattr(export_module, "rebuild", lambda checkpoint, source: network)
    exported = export_network(checkpoint, to="torch_export")
    assert not exported.dynamic_size
    images = torch.randn(7, 3, 16, 16)
    with torch.no_grad():
        loaded = torch.export.load(exported.path).module()(images)
        torch.testing.assert_close(loaded, network(images))


def test_the_axes_of_a_network_of_fixed_size_are_numbers_but_for_the_batch(checkpoint, monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(export_module, "rebuild", lambda checkpoint, source: FixedSize())
    content = export_network(checkpoint, to="onnx").path.read_bytes()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    assert [node.shape for node in session.get_inputs()] == [["batch", 3, 16, 16]]
    assert [node.shape for node in session.get_outputs()] == [["batch", 4]]


def test_a_network_that_cannot_be_traced_is_refused_with_the_reason(checkpoint, monkeypatch):
    monkeypatch.setattr(export_module, "rebuild", lambda checkpoint, source: Untraceable())
    with pytest.raises(UsageError, match=r"torch\.export cannot trace"):
        export_network(checkpoint, to="torch_export")
