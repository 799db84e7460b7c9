"""Export networks for use without this package: as ONNX or as a program of ``torch.export``."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from cbam_lightning.checks import check_choice
from cbam_lightning.errors import UsageError
from cbam_lightning.files import atomic_write
from cbam_lightning.models.factory import rebuild
from cbam_lightning.models.pretrained import open_checkpoint
from cbam_lightning.weights import Header, list_weights

SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2"}
TOLERANCE = 1e-4  # absolute, for logits scaled to at most 1

_AXES = {0: "batch", 2: "height", 3: "width"}  # the axes of the images that may have any size
_DEFAULT_SIZE_PX = 224
_LARGER_PX = 32  # the total stride of most networks
_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_Run = Callable[[Tensor], Tensor]


class Exported(NamedTuple):
    """An exported file.

    Attributes:
        path: The file.
        dynamic_size: Whether the images may have another height and width than in training; the batch size is
            always dynamic.
        difference: Largest difference of a logit between the file and the network on random images, relative
            to the largest logit if that is above 1.
        header: The header, which is also in the file: normalisation of the images, class names and more.
    """

    path: Path
    dynamic_size: bool
    difference: float
    header: Header


def export_network(source: str | Path, out: str | Path | None = None, to: str = "onnx") -> Exported:
    """Export the network of a checkpoint to run without this package, and verify the file.

    The file takes normalised images (N, C, H, W), float32, as ``images`` and returns ``logits`` (N, K), for
    any N, and any H and W unless the network fixes them. ONNX calls these axes ``batch``, ``height`` and
    ``width``; files of torch cannot name them. The checkpoint's header is in the metadata (ONNX:
    ``metadata_props``; torch: the extra file) under ``cbam_lightning``.

    Args:
        source: Weights as for ``create_model``.
        out: The file to write. Default: next to the checkpoint, with its name.
        to: ``onnx``, or ``torch_export`` for ``torch.export.load``.

    Raises:
        UsageError: A wrong name or ending, missing packages for ONNX, a network that cannot be exported, or a
            file whose logits differ from the network's.
        OSError: The file cannot be written.
    """
    check_choice("format", to, SUFFIXES)
    suffix = SUFFIXES[to]
    if out is None:  # a registered name has no ending, even with a dot
        out = f"{source}{suffix}" if source in list_weights() else Path(source).with_suffix(suffix)
    out = Path(out)
    if out.suffix != suffix:
        raise UsageError(f"{out} should end in {suffix}, the ending of {to} files.")
    if to == "onnx":
        _need_onnx()
    checkpoint = open_checkpoint(source)
    header = checkpoint.header
    network = rebuild(checkpoint, str(source)).eval()
    size_px = header.size_px or _DEFAULT_SIZE_PX
    program, dynamic_size = _trace(network, header.in_channels, size_px)
    content, run = _to_onnx(program, header, dynamic_size) if to == "onnx" else _to_torch(program, header)
    sizes_px = (size_px, size_px + _LARGER_PX) if dynamic_size else (size_px,)
    difference = max(
        _difference(network, run, torch.randn(batch, header.in_channels, size, size))
        for batch in (1, 3)
        for size in sizes_px
    )
    if not difference <= TOLERANCE:
        raise UsageError(
            f"{to} differs from the network by {difference:.1e} (allowed: {TOLERANCE}); nothing was written."
        )
    with atomic_write(out) as file:
        file.write(content)
    return Exported(out, dynamic_size, difference, header)


def _trace(network: nn.Module, in_channels: int, size_px: int) -> tuple[ExportedProgram, bool]:
    """Trace with a dynamic batch size, and with dynamic image sizes unless a layer fixes them."""
    images = torch.randn(2, in_channels, size_px, size_px)
    batch, sizes = {0: Dim("batch")}, {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    try:
        with torch.no_grad():
            network(images.new_zeros(2, in_channels, size_px + _LARGER_PX, size_px + _LARGER_PX))
        return torch.export.export(network, (images,), dynamic_shapes=({**batch, **sizes},)), True
    except Exception:  # a layer of fixed size may raise anything
        try:
            return torch.export.export(network, (images,), dynamic_shapes=(batch,)), False
        except Exception as error:
            raise UsageError(f"torch.export cannot trace it: {str(error).splitlines()[0]}.") from error


def _to_torch(program: ExportedProgram, header: Header) -> tuple[bytes, _Run]:
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files=header.to_metadata())
    loaded: Any = torch.export.load(io.BytesIO(buffer.getvalue())).module()
    return buffer.getvalue(), loaded


def _to_onnx(program: ExportedProgram, header: Header, dynamic_size: bool) -> tuple[bytes, _Run]:
    import onnxruntime

    axes = _AXES if dynamic_size else {0: _AXES[0]}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the exporter's own internals
        exported: Any = torch.onnx.export(
            program,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=(axes,),  # only the names; the program has the shapes
            verbose=False,
        )
    exported.model.metadata_props.update(header.to_metadata())
    content: bytes = exported.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return content, lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


@torch.no_grad()
def _difference(network: nn.Module, run: _Run, images: Tensor) -> float:
    expected = network(images)
    return float((run(images) - expected).abs().max() / expected.abs().max().clamp(min=1))


def _need_onnx() -> None:
    missing = [name for name in _ONNX_PACKAGES if find_spec(name) is None]
    if missing:
        raise UsageError(f"ONNX needs {', '.join(missing)}; run pip install 'cbam_lightning[onnx]'.")
