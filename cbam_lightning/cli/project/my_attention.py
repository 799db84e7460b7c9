"""Your own attention module: replace it, or add classes."""

from torch import Tensor, nn

from cbam_lightning import register_attention


@register_attention("contrast")
class ContrastAttention(nn.Module):
    """A gate for each channel, computed from the channel's standard deviation over the image.

    Args:
        channels: C of the feature maps; the first argument of every attention module.
        reduction: C divided by the number of hidden units; an option of this module only.
    """

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` times its gate: (N, C, H, W) to the same."""
        spread = (x.var((2, 3)) + 1e-5).sqrt()  # (N, C)
        gate = self.mlp(spread).sigmoid()
        return x * gate[:, :, None, None]
