"""The self-attention block of SAGAN (Zhang, Goodfellow, Metaxas and Odena, ICML 2019).

Paper: https://arxiv.org/abs/1805.08318. Authors' code: https://github.com/brain-research/self-attention-gan.

Equal to the authors' code: 1x1 convolutions without biases, queries and keys of C // 8 channels, values of
C // 2 (section 3 of the paper gives the values C // 8 too), scores that are not divided by the root of their
length, and a residual whose scale starts at 0.

Different from the authors' code: keys and values keep every position, as in the paper's equations 1 and 2,
where the code max-pools them by 2x2; no spectral normalisation, which is for the training of GANs; initial
values are torch's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cbam_lightning.attention import positions
from cbam_lightning.attention.gate import at_least_float32, run_layer, without_autocast
from cbam_lightning.checks import check_positive


class SAGAN(nn.Module):
    """Every position looks at every other: x + gamma * v(softmax(f(x) g(x)) h(x)) (equations 1 to 3).

    Positions may have one, two or three dimensions. Time, and without a fused kernel memory, grow with the
    square of their number. Precision is that of ``Gate``: at least float32, also under autocast. Only where
    ``torch.compile`` meets autocast without a fused kernel is the backward pass rounded, since torch then
    traces it under autocast (``torch._functorch.config.backward_pass_autocast``).

    Args:
        channels: C, the number of channels of the input.
        reduction: How many times fewer channels than C queries and keys have, at least one.

    Raises:
        UsageError: A number below 1; in ``forward``, an input of another form than (N, C, *positions).
    """

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        check_positive("channels", channels)
        check_positive("reduction", reduction)
        hidden, half = max(1, channels // reduction), max(1, channels // 2)
        self.query = nn.Conv1d(channels, hidden, kernel_size=1, bias=False)  # g of the paper
        self.key = nn.Conv1d(channels, hidden, kernel_size=1, bias=False)  # f
        self.value = nn.Conv1d(channels, half, kernel_size=1, bias=False)  # h
        self.output = nn.Conv1d(half, channels, kernel_size=1, bias=False)  # v
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` plus what its positions see, in the dtype of ``x``: (N, C, *positions) to the same."""
        positions.check_feature_map(self, x)
        with without_autocast(x.device.type):
            seen = self._attend(at_least_float32(x).flatten(2)).view(x.shape)
        return (x + self.gamma * seen).to(x.dtype)

    def _attend(self, x: Tensor) -> Tensor:
        # (N, C, L) to (N, 1, L, channels): one head, the form that the fused kernels take.
        query, key, value = (
            run_layer(layer, x).transpose(1, 2)[:, None] for layer in (self.query, self.key, self.value)
        )
        attended = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        return run_layer(self.output, attended[:, 0].transpose(1, 2))
