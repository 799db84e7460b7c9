"""The self-attention block of SAGAN (Zhang, Goodfellow, Metaxas and Odena, ICML 2019).

Paper: https://arxiv.org/abs/1805.08318. Authors' code: https://github.com/brain-research/self-attention-gan.

As in the authors' code: 1x1 convolutions without biases; C // 8 channels for queries and keys and C // 2 for
values, where section 3 of the paper has C // 8; unscaled dot products; a residual scale that starts at 0.

Unlike the authors' code: keys and values keep all positions, as in the paper's equations 1 and 2, where the
code max-pools them by 2x2; no spectral normalisation, which serves GAN training; torch's initial values.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cbam_lightning.attention import positions
from cbam_lightning.attention.gate import run_layer, without_autocast
from cbam_lightning.attention.half_precision import Conv1d, run_on_map
from cbam_lightning.attention.limited_logits import limited
from cbam_lightning.attention.received_attention import received_attention
from cbam_lightning.attention.scripting import refuse_scripting
from cbam_lightning.checks import check_positive


class SAGAN(nn.Module):
    """Self-attention between positions: x + gamma * v(softmax(f(x) g(x)) h(x)).

    These are equations 1 to 3 of the paper. Inputs may have one, two or three position dimensions. Time grows
    with the square of the number of positions, and so does memory where torch has no fused kernel. Like a
    ``Gate``, it computes in at least float32, also under autocast. One exception: compiled under autocast
    without a fused kernel, the backward pass is rounded, since torch traces it under autocast
    (``torch._functorch.config.backward_pass_autocast``).

    A fused kernel has no second derivative and no forward mode; ``torch.nn.attention.sdpa_kernel`` chooses
    the kernel ``SDPBackend.MATH``, which has both. The fused one for float32 on CUDA has a deterministic
    backward pass only with ``torch.use_deterministic_algorithms(True)``.

    Args:
        channels: C, the number of channels of the input.
        reduction: Queries and keys have C // reduction channels, at least one.

    Raises:
        UsageError: A number below 1. In ``forward`` and ``gate_maps``: an input that is not
            (N, C, *positions).
    """

    __prepare_scriptable__ = refuse_scripting

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        check_positive("channels", channels)
        check_positive("reduction", reduction)
        hidden, half = max(1, channels // reduction), max(1, channels // 2)
        self.query = Conv1d(channels, hidden, kernel_size=1, bias=False)  # g of the paper
        self.key = Conv1d(channels, hidden, kernel_size=1, bias=False)  # f
        self.value = Conv1d(channels, half, kernel_size=1, bias=False)  # h
        self.output = nn.Conv1d(half, channels, kernel_size=1, bias=False)  # v
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` plus scaled self-attention, in the dtype of ``x``: (N, C, *positions) to the same."""
        positions.check_feature_map(self, x)
        with without_autocast(x.device.type):
            attended = self._attend(x.flatten(2)).view(x.shape)
        return (x + attended).to(x.dtype)

    def gate_maps(self, x: Tensor) -> dict[str, Tensor]:
        """Return what multiplies nothing, but shows where it looks: ``received_attention``.

        Returns:
            ``attention``, (N, 1, *positions), with mean 1.
        """
        positions.check_feature_map(self, x)
        with without_autocast(x.device.type):
            query, key = (_project(layer, x.flatten(2)) for layer in (self.query, self.key))
            return {"attention": received_attention(query, key, x.shape[2:])}

    def _attend(self, x: Tensor) -> Tensor:
        query, key, value = (_project(layer, x) for layer in (self.query, self.key, self.value))
        attended = F.scaled_dot_product_attention(limited(query, key), key, value, scale=1.0)
        # v is linear: scaled before it, what the gradient of gamma keeps is half as large.
        return run_layer(self.output, self.gamma * attended[:, 0].transpose(1, 2))


def _project(layer: nn.Module, x: Tensor) -> Tensor:
    """Map (N, C, L) to (N, 1, L, channels): one head, in the layout that the fused kernels take."""
    return run_on_map(layer, x).transpose(1, 2)[:, None].contiguous()
