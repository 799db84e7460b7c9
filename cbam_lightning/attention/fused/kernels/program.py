"""The launches of a pass: recorded once on tensors without memory, then started with the addresses of others.

Triton's own call takes long on the way to a kernel (some 70 us of Python on the host of an H200): it
classifies every argument, makes a key of them, and asks a cache. Of all that, only the addresses differ
between the steps of a training. So the first pass of its kind runs on the meta device, where it says what it
allocates and what it starts on which tensor; the kernels are compiled; and from then on a pass allocates,
adds up addresses and starts.

Without a program run passes that have to stop between two kernels, for the sums of a synchronised BatchNorm,
and those on tensors that do not begin at a multiple of 16 bytes, for which kernels are compiled separately.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from cbam_lightning.attention.fused.kernels.sequence import Parameters, Sequence
from cbam_lightning.attention.fused.norm import Norm

_ALIGNMENT = 16  # bytes; Triton compiles a kernel anew for an address that is no multiple of it
# Earlier ones start a compiled kernel with other arguments.
_STARTS_COMPILED = tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 3)

Body = Callable[..., tuple[Tensor | None, ...]]
Maps = tuple[Any, ...]  # tensors like x, which is the first, or None


class Run:
    """A pass on tensors: makes what it needs, and starts its kernels.

    Attributes:
        sequence: The launches.
    """

    def __init__(self, sequence: Sequence, new: Callable[..., Tensor] = torch.empty) -> None:
        self.sequence, self._new = sequence, new

    def start(self, kernel: Any, grid: tuple[int, ...], *args: object, **constants: object) -> None:
        """Launch a kernel with the constants and the block of the sequence."""
        launch(kernel, grid, *args, **self.sequence.constants_of(kernel), **constants)

    def like(self, x: Tensor) -> Tensor:
        """Make a tensor like ``x``."""
        return torch.empty_like(x)

    def kept(self, size: int, x: Tensor) -> Tensor:
        """Make an output of ``size`` elements in float32, on the device of ``x``."""
        return self._new(size, dtype=torch.float32, device=x.device)

    def workspace(self, sizes: Iterable[int], x: Tensor) -> tuple[Tensor, ...]:
        """Make float32 pieces at once, on the device of ``x``."""
        sizes = list(sizes)
        return torch.split(self._floats(sum(sizes), x), sizes)

    def _floats(self, size: int, x: Tensor) -> Tensor:
        return torch.empty(size, dtype=torch.float32, device=x.device)


def launch(kernel: Any, grid: tuple[int, ...], *args: object, **constants: object) -> None:
    """Start a kernel. Tests put a recorder here."""
    kernel[grid](*args, **constants)


def run_pass(
    body: Body,
    sequence: Sequence,
    new: Callable[..., Tensor],
    maps: Maps,
    parameters: Parameters,
    norm: Norm,
    spatial_norm: Norm,
) -> Any:
    """Run a pass, with its program where it can have one.

    Args:
        body: Takes a ``Run`` and what follows here; returns tensors that the ``Run`` has made, or None.
        sequence: The launches.
        new: Makes the outputs in float32.
        maps: Tensors that are like x, the first, or None; what was kept.
        parameters: The parameters, in float32.
        norm: The BatchNorm before the gates.
        spatial_norm: That of the spatial gate.
    """
    x, statistics = maps[0], [*norm.statistics, *spatial_norm.statistics]
    tensors = [*maps, *parameters.norm, *parameters.mlp, *parameters.spatial, *statistics]
    addresses = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
    with _on_device_of(x):
        stops = x.is_meta or norm.over_processes or spatial_norm.over_processes
        if stops or not _STARTS_COMPILED or any(address % _ALIGNMENT for address in addresses):
            return body(Run(sequence, new), maps, parameters, norm, spatial_norm)
        kind = body, x.dtype, x.device, norm[1:], spatial_norm[1:], *(value.dtype for value in statistics)
        program = sequence.programs.get(kind)
        if program is None:
            arguments = (maps, parameters, norm, spatial_norm)
            program = sequence.programs[kind] = Program(body, sequence, arguments, x.device)
        return program.run(tensors, addresses, new)


def _on_device_of(x: Tensor) -> AbstractContextManager[object]:
    """Return a context in which kernels start on the device of x: Triton takes the current one."""
    if x.is_cuda and x.device.index != torch.cuda.current_device():
        return torch.cuda.device(x.device)
    return nullcontext()


class _Made(NamedTuple):
    """A tensor that a pass makes: one like another, an output in float32, or a workspace."""

    like: int | None
    size: int
    is_output: bool


class _Address(NamedTuple):
    """Where an argument lies: a tensor of the pass, and bytes from its beginning."""

    tensor: int
    offset: int


class _Start(NamedTuple):
    """A kernel, ready to start.

    Attributes:
        call: Starts it on a stream with all its arguments, constants as well.
        arguments: These, without the addresses.
        places: Where in ``arguments`` which address belongs.
    """

    call: Callable[[int, list[Any]], None]
    arguments: list[Any]
    places: list[tuple[int, _Address]]


class Program:
    """The launches of a pass with all but the addresses."""

    def __init__(
        self, body: Body, sequence: Sequence, arguments: Iterable[Any], device: torch.device
    ) -> None:
        recorder = _Recorder(sequence)
        results = body(recorder, *map(recorder.without_memory, arguments))
        self._device, self._made = device, recorder.made
        self._results = [None if result is None else recorder.tensor_of(result) for result in results]
        prepare = _compiled if device.type == "cuda" else _interpreted
        self._starts = [self._prepare(recorder, prepare, *started) for started in recorder.started]

    def run(
        self, tensors: list[Tensor | None], addresses: list[int], new: Callable[..., Tensor]
    ) -> tuple[Tensor | None, ...]:
        """Run the pass on these tensors, which have these addresses."""
        every: list[Any] = tensors
        for like, size, is_output in self._made:
            if like is not None:
                made = torch.empty_like(every[like])
            else:
                made = (new if is_output else torch.empty)(size, dtype=torch.float32, device=self._device)
            every.append(made)
            addresses.append(made.data_ptr())
        is_cuda = self._device.type == "cuda"
        stream = torch._C._cuda_getCurrentRawStream(self._device.index) if is_cuda else 0
        for call, arguments, places in self._starts:
            arguments = arguments.copy()
            for place, (tensor, offset) in places:
                arguments[place] = addresses[tensor] + offset
            call(stream, arguments)
        return tuple(None if result is None else every[result] for result in self._results)

    @staticmethod
    def _prepare(
        recorder: _Recorder,
        prepare: Callable[..., Callable[[int, list[Any]], None]],
        kernel: Any,
        grid: tuple[int, ...],
        args: tuple[Any, ...],
        constants: dict[str, Any],
    ) -> _Start:
        values = dict(zip(kernel.arg_names, args, strict=False)) | constants
        arguments = [values[name] for name in kernel.arg_names]
        dtypes = {i: value.dtype for i, value in enumerate(arguments) if isinstance(value, Tensor)}
        places = [(place, recorder.address_of(arguments[place])) for place in dtypes]
        for place, dtype in dtypes.items():
            arguments[place] = dtype
        options = {name: value for name, value in constants.items() if name not in kernel.arg_names}
        return _Start(prepare(kernel, grid, arguments.copy(), options), arguments, places)


class _Recorder(Run):
    """Notes what a pass makes and starts, on the meta device."""

    def __init__(self, sequence: Sequence) -> None:
        super().__init__(sequence)
        self.made: list[_Made] = []
        self.started: list[tuple[Any, tuple[int, ...], tuple[object, ...], dict[str, object]]] = []
        self._tensors: list[Tensor | None] = []  # keeps them alive: a storage is known by where it is

    def without_memory(self, argument: Any) -> Any:
        """Return the argument with every tensor in it on the meta device, each in a storage of its own."""
        if argument is None or isinstance(argument, Tensor):
            if argument is not None:
                argument = torch.empty_strided(
                    argument.shape, argument.stride(), dtype=argument.dtype, device="meta"
                )
            self._tensors.append(argument)
        elif isinstance(argument, list):
            return [self.without_memory(part) for part in argument]
        elif isinstance(argument, tuple):
            parts = map(self.without_memory, argument)
            return type(argument)(*parts) if hasattr(argument, "_fields") else tuple(parts)
        return argument

    def tensor_of(self, x: Tensor) -> int:
        """Return the number of the tensor whose memory ``x`` is a part of."""
        storages = [None if t is None else t.untyped_storage()._cdata for t in self._tensors]
        return storages.index(x.untyped_storage()._cdata)

    def address_of(self, x: Tensor) -> _Address:
        """Return where ``x`` lies."""
        return _Address(self.tensor_of(x), int(x.storage_offset()) * x.itemsize)

    def start(self, kernel: Any, grid: tuple[int, ...], *args: object, **constants: object) -> None:
        """Note a launch."""
        self.started.append((kernel, grid, args, self.sequence.constants_of(kernel) | constants))

    def like(self, x: Tensor) -> Tensor:
        """Note a tensor like ``x``."""
        return self._note(super().like(x), _Made(self.tensor_of(x), 0, False))

    def kept(self, size: int, x: Tensor) -> Tensor:
        """Note an output."""
        return self._note(super().kept(size, x), _Made(None, size, True))

    def _floats(self, size: int, x: Tensor) -> Tensor:
        return self._note(super()._floats(size, x), _Made(None, size, False))

    def _note(self, x: Tensor, made: _Made) -> Tensor:
        self._tensors.append(x)
        self.made.append(made)
        return x


def _compiled(
    kernel: Any, grid: tuple[int, ...], arguments: list[Any], options: dict[str, Any]
) -> Callable[[int, list[Any]], None]:
    """Compile a kernel for the current device. A dtype stands for an address that is a multiple of 16."""
    compiled = kernel.warmup(*arguments, grid=grid, **options)
    compiled._init_handles()
    run, function, metadata = compiled.run, compiled.function, compiled.packed_metadata
    x, y, z = (*grid, 1, 1)[:3]

    def call(stream: int, arguments: list[Any]) -> None:
        run(x, y, z, stream, function, metadata, None, None, None, *arguments)  # without hooks of profilers

    return call


def _interpreted(
    kernel: Any, grid: tuple[int, ...], arguments: list[Any], options: dict[str, Any]
) -> Callable[[int, list[Any]], None]:
    """Let Triton's interpreter run a kernel. It takes tensors, of which only address and dtype count."""
    dtypes = [argument if isinstance(argument, torch.dtype) else None for argument in arguments]

    def call(_: int, arguments: list[Any]) -> None:
        pairs = zip(arguments, dtypes, strict=True)
        launch(kernel, grid, *(x if dtype is None else _tensor_at(x, dtype) for x, dtype in pairs), **options)

    return call


def _tensor_at(address: int, dtype: torch.dtype) -> Tensor:
    if not address:
        return torch.empty(0, dtype=dtype)
    return torch.frombuffer((ctypes.c_byte * dtype.itemsize).from_address(address), dtype=dtype)
