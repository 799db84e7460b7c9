"""The options of each benchmark, which the command shows as well.

Nothing heavy is imported here, so that ``--help`` answers at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Literal

from cbam_lightning.checks import check_choice, check_positive

MemoryFormat = Literal["channels_first", "channels_last"]
Precision = Literal["32", "bf16", "fp16"]
CompileMode = Literal["default", "reduce-overhead"]
SHAPES = ("16x256x56x56", "16x512x28x28", "16x1024x14x14", "16x2048x7x7")  # after ResNet-50's stages
MEMORY_FORMATS: tuple[MemoryFormat, ...] = ("channels_first", "channels_last")
# What a report says of them.
DTYPES: dict[Precision, str] = {"32": "float32", "bf16": "bfloat16 autocast", "fp16": "float16 autocast"}
COMPILED: dict[CompileMode, str] = {"default": "compiled", "reduce-overhead": "compiled with CUDA graphs"}
_CHOICES = {"memory_format": MEMORY_FORMATS, "precision": DTYPES, "compile_mode": COMPILED}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of every benchmark.

    Attributes:
        repeats: Measurements of each candidate.

    Raises:
        UsageError: A number is below 1, or a choice is unknown.
    """

    repeats: int = 7

    def __post_init__(self) -> None:
        """Check all values."""
        for name, value in vars(self).items():
            if type(value) is int:
                check_positive(name, value)
        for name, allowed in _CHOICES.items():
            chosen = getattr(self, name, ())
            for choice in [chosen] if isinstance(chosen, str) else chosen:
                check_choice(name, choice, allowed)


@dataclass(frozen=True, kw_only=True)
class DeviceOptions(Options):
    """Options of benchmarks that compute on one device.

    Attributes:
        device: Device, such as cpu, cuda or cuda:1.
        threads: Number of torch threads. Default: all.
    """

    device: str = "cpu"
    threads: int | None = None

    @property
    def setting(self) -> dict[str, str | int]:
        """What a report says about the measurement."""
        return {"repeats": self.repeats, "dtype": "float32", "device": self.device}


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(DeviceOptions):
    """Options of benchmarks that train.

    Attributes:
        precision: 32, or autocast to bfloat16 or float16.
    """

    precision: Precision = "32"

    @property
    def setting(self) -> dict[str, str | int]:
        """What a report says about the measurement."""
        return super().setting | {"dtype": DTYPES[self.precision]}


@dataclass(frozen=True)
class AttentionOptions(TrainingOptions):
    """Options of ``time_attention``.

    Attributes:
        name: An attention module, with its default options.
        shapes: Shapes of the input; the defaults follow the stages of ResNet-50 at 224 px.
        memory_format: Memory formats of the input.
        compiled: Measure modules compiled by torch.compile as well. Default: if a compiler is available.
    """

    name: str = "cbam"
    _: KW_ONLY
    shapes: Sequence[Annotated[str, "NxCxHxW"]] = SHAPES
    memory_format: Sequence[MemoryFormat] = MEMORY_FORMATS
    repeats: int = 11
    compiled: bool | None = None


@dataclass(frozen=True)
class NetworkOptions(TrainingOptions):
    """Options of ``time_network``.

    Attributes:
        network: A network, as named by `cbam-lightning models`.
        attention: Attention modules, each with its default options.
        batch_size: Images in the batch.
        size_px: Height and width of the images.
        in_channels: Number of channels of the images.
        memory_format: Memory formats of images and weights.
        compiled: Measure fused attention as well. Default: if a compiler is available.
        compile_mode: Modes of torch.compile, in which to measure whole networks as well; reduce-overhead
            takes CUDA graphs, on a GPU only.
    """

    network: Annotated[str, "NAME"] = "resnet50"
    _: KW_ONLY
    attention: Sequence[str] = ("cbam",)
    batch_size: int = 8
    size_px: int = 224
    in_channels: int = 3
    memory_format: Sequence[MemoryFormat] = ("channels_first",)
    compiled: bool | None = None
    compile_mode: Sequence[CompileMode] = ()


@dataclass(frozen=True)
class GradCAMOptions(DeviceOptions):
    """Options of ``time_gradcam``.

    Attributes:
        network: A network, as named by `cbam-lightning models`.
        attention: Its attention module.
        batch_size: Random images in the batch.
        size_px: Height and width of the images.
    """

    network: Annotated[str, "NAME"] = "resnet50"
    _: KW_ONLY
    attention: str = "cbam"
    batch_size: int = 8
    size_px: int = 224


@dataclass(frozen=True, kw_only=True)
class ReadingOptions(Options):
    """Options of ``time_reading``.

    Attributes:
        root: Folder of image files. Default: JPEG files of 500 x 375 px, cropped from one photograph.
        images: Number of files, at least 2.
    """

    root: Annotated[str, "DIR"] | None = None
    images: int = 64


@dataclass(frozen=True, kw_only=True)
class LoopOptions(TrainingOptions):
    """Options of ``time_loop``.

    Attributes:
        network: A network, as named by `cbam-lightning models`.
        attention: Its attention module.
        batch_size: Images per batch.
        steps: Training steps in each measurement.
        memory_format: Memory formats of images and weights.
        compile_mode: Modes of torch.compile, in which to measure the network as well; reduce-overhead takes
            CUDA graphs, on a GPU only.
    """

    network: str = "resnet20"
    attention: str = "cbam"
    batch_size: int = 128
    steps: int = 20
    memory_format: Sequence[MemoryFormat] = ("channels_first",)
    compile_mode: Sequence[CompileMode] = ()
