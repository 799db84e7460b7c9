"""Memory that a computation saves for its backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor, UntypedStorage
from torch.autograd.graph import saved_tensors_hooks


def saved_bytes(call: Callable[[], object], exclude: Iterable[Tensor] = ()) -> int:
    """Count the bytes that autograd saves while ``call`` runs, exactly.

    Each storage counts once and in full, however many views of it are saved, since one view keeps all of it
    alive. The input counts if it is saved, since nothing else may need it. Parameters and buffers count
    unless they are in ``exclude``. What a custom function stores without ``save_for_backward`` is not seen.

    Args:
        call: A forward pass, without arguments.
        exclude: Tensors whose storages do not count, such as parameters and buffers.
    """
    excluded = {tensor.untyped_storage().data_ptr() for tensor in exclude}
    # Holds the storages themselves, since the address of a freed one could be reused.
    saved: dict[int, UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = call()
    total = sum(storage.nbytes() for address, storage in saved.items() if address not in excluded)
    del result
    return total
