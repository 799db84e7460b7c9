"""How many bytes a computation keeps for its backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor, UntypedStorage
from torch.autograd.graph import saved_tensors_hooks


def saved_bytes(call: Callable[[], object], exclude: Iterable[Tensor] = ()) -> int:
    """Count what autograd saves while ``call`` runs, exactly.

    A storage counts once and whole, however many views of it are saved, since one view keeps all of it. Its
    input counts if the computation saves it: without that, nothing else may need it any more. So do
    parameters and buffers, which stay anyway, unless they are among ``exclude``. What a custom function keeps
    in another way than ``save_for_backward`` is not seen.

    Args:
        call: A forward pass, without arguments.
        exclude: Tensors whose storages do not count, such as parameters and buffers.
    """
    excluded = {tensor.untyped_storage().data_ptr() for tensor in exclude}
    # The storages themselves, too: a freed one could leave its address to the next.
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
