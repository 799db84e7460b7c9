"""The operations that a module runs, and those of them that are not deterministic on CUDA."""

from torch.utils._python_dispatch import TorchDispatchMode

# The operations that torch.use_deterministic_algorithms lists, by their names in the dispatcher: where it is
# the gradient that differs from run to run, the operation of the backward pass. Convolutions are left out:
# cuDNN has deterministic ones, which Lightning's option ``deterministic`` chooses.
_ADAPTIVE = ("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d")
_WINDOWS = ("avg_pool3d", "fractional_max_pool2d", "fractional_max_pool3d", "max_pool3d_with_indices")
_PADS = tuple(f"{kind}_pad{dims}d" for kind in ("reflection", "replication") for dims in (1, 2, 3))
_SAMPLED = (
    "upsample_linear1d",
    "upsample_bilinear2d",
    "_upsample_bilinear2d_aa",
    "upsample_bicubic2d",
    "_upsample_bicubic2d_aa",
    "upsample_trilinear3d",
    "grid_sampler_2d",
    "grid_sampler_3d",
    "_ctc_loss",
    "_embedding_bag",
    "embedding_dense",
)
_FORWARD = (
    "max_unpool2d",
    "max_unpool3d",
    "cumsum",
    "index_put",
    "_index_put_impl",
    "index_add",
    "index_copy",
    "put",
    "scatter",
    "scatter_add",
    "scatter_reduce",
    "nll_loss_forward",
    "nll_loss2d_forward",
    "histc",
    "bincount",
    "median",
    "kthvalue",
)
NOT_DETERMINISTIC_ON_CUDA = {f"{name}_backward" for name in _ADAPTIVE + _WINDOWS + _PADS + _SAMPLED} | {
    *_FORWARD
}


class OperationNames(TorchDispatchMode):
    """Record the names of all operations that run inside, such as ``aten.mean.dim``.

    Attributes:
        names: The names.
    """

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(str(function))
        return function(*args, **(kwargs or {}))

    def not_deterministic(self):
        """Return the operations whose results on CUDA differ from run to run, or that are refused there."""
        return sorted(n for n in self.names if n.split(".")[1].rstrip("_") in NOT_DETERMINISTIC_ON_CUDA)
