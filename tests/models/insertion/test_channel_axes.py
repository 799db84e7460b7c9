"""The axis of the channels, against the axis that stays when the size of the image changes."""

import pytest
import torch
from torch import nn

from cbam_lightning.errors import UsageError
from cbam_lightning.models.insertion import plan_insertion


class Layout(nn.Module):
    """A convolution to 12 channels, and what ``rearrange`` makes of them, returned by a module."""

    def __init__(self, rearrange, layer=None):
        super().__init__()
        self.stem, self.place, self.head = (
            nn.Conv2d(3, 12, 3, padding=1),
            layer or nn.Identity(),
            nn.Linear(1, 2),
        )
        self.rearrange = rearrange

    def forward(self, x):
        out = self.place(self.rearrange(self.stem(x)))
        return self.head(out.flatten(1).mean(1, keepdim=True))


class Shuffled(nn.Module):
    def forward(self, x):
        n, c, h, w = x.shape
        return x.view(n, 3, c // 3, h, w).transpose(1, 2).reshape(n, c, h, w)


class Windows(nn.Module):
    """Windows of 4 x 4 and back, as in Swin, with a layer between."""

    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(12, 12)

    def forward(self, x):
        n, h, w, c = x.shape
        x = x.view(n, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
        x = self.proj(torch.softmax(x @ x.transpose(1, 2), -1) @ x)
        return x.view(n, h // 4, w // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)


class Mixer(nn.Module):
    """A linear layer over the tokens, as in MLP-Mixer: what it returns first are tokens still."""

    def __init__(self, tokens):
        super().__init__()
        self.mix = nn.Linear(tokens, tokens)

    def forward(self, x):
        return self.mix(x.transpose(1, 2))


LAYOUTS = {
    "channels first": (lambda x: x, None),
    "channels last": (lambda x: x.permute(0, 2, 3, 1), None),
    "channels last, linear": (lambda x: x.permute(0, 2, 3, 1), lambda px: nn.Linear(12, 12)),
    "channels last, norm": (lambda x: x.movedim(1, -1), lambda px: nn.LayerNorm(12)),
    "channels last, pooled": (lambda x: x.permute(0, 2, 3, 1)[:, ::2, ::2], None),
    "channels last, rolled and padded": (
        lambda x: nn.functional.pad(x.permute(0, 2, 3, 1).roll(1, 1), (0, 0, 1, 2, 1, 2)),
        None,
    ),
    "channels in the middle": (lambda x: x.transpose(1, 2), None),
    "tokens": (lambda x: x.flatten(2).transpose(1, 2), None),
    "tokens with a class token": (lambda x: torch.cat([x.flatten(2).mT[:, :1], x.flatten(2).mT], 1), None),
    "tokens, channels first": (lambda x: x.flatten(2), None),
    "tokens and back": (lambda x: x.flatten(2).mT.mT.unflatten(2, x.shape[2:]), None),
    "shuffled": (lambda x: x, lambda px: Shuffled()),
    "windows": (lambda x: x.permute(0, 2, 3, 1), lambda px: Windows()),
    "mixed tokens": (lambda x: x.flatten(2).mT, lambda px: Mixer(px * px)),
    "one more axis": (lambda x: x.unsqueeze(2), None),
    "einsum": (
        lambda x: torch.einsum("nchw,cd->nhwd", x, torch.ones(12, 12, dtype=x.dtype, device=x.device)),
        None,
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_channels_are_what_stays_when_the_size_changes(layout):
    rearrange, layer = LAYOUTS[layout]
    shapes = {}
    for px in (8, 16):
        torch.manual_seed(0)
        network = Layout(rearrange, layer and layer(px))
        network.place.register_forward_hook(lambda m, i, o, px=px: shapes.update({px: o.shape}))
        network(torch.randn(1, 3, px, px))
        (point,) = plan_insertion(network, "place", (1, 3, px, px))
        assert point.channels == 12
        assert point.shape == tuple(shapes[px])
    stays = [axis for axis in range(1, len(shapes[8])) if shapes[8][axis] == shapes[16][axis] == 12]
    assert stays == [point.channel_axis]


@pytest.mark.parametrize(
    ("rearrange", "message"),
    [
        (lambda x: x.reshape(len(x), 6, -1), r"shape \(1, 6, 128\), whose axis of channels is not known"),
        (lambda x: x.unflatten(1, (3, 4)), r"shape \(1, 3, 4, 8, 8\), whose axis of channels is not known"),
        (
            lambda x: x.permute(0, 2, 3, 1).unflatten(1, (4, 2)).permute(0, 1, 3, 2, 4).flatten(2, 3),
            r"shape \(1, 4, 16, 12\), of windows: its 4 x 16 positions are not in the proportion",
        ),
        (lambda x: torch.cat([x, x]), r"shape \(2, 12, 8, 8\), of 2 regions or patches of 1 images"),
        (
            lambda x: x.unflatten(1, (2, 6)).flatten(0, 1),
            r"\(2, 6, 8, 8\), whose axis of channels",
        ),
        (lambda x: x.mean((2, 3)), r"shape \(1, 12\), not a feature map"),
    ],
)
def test_what_is_uncertain_is_refused(rearrange, message):
    with pytest.raises(UsageError, match=message):
        plan_insertion(Layout(rearrange), "place", (1, 3, 8, 8))
