"""State dicts as other code writes them, and their networks as plain functions of those raw keys."""

import torch
import torch.nn.functional as F

BN = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
WIDTHS = (16, 32, 48, 64)


class Writer(dict):
    """Random values under given names, in float64."""

    def __init__(self, seed=0):
        super().__init__()
        self.random = torch.Generator().manual_seed(seed)

    def values(self, key, *shape):
        self[key] = torch.randn(shape, generator=self.random, dtype=torch.float64)

    def layer(self, name, *shape, bias=False):
        self.values(f"{name}.weight", *shape)
        # as large as torch's own: logits stay of order one
        self[f"{name}.weight"] /= self[f"{name}.weight"][0].numel() ** 0.5
        if bias:
            self.values(f"{name}.bias", shape[0])

    def bn(self, name, channels):
        for key in BN[:3]:
            self.values(f"{name}.{key}", channels)
        self[f"{name}.running_var"] = 0.5 + torch.rand(channels, generator=self.random, dtype=torch.float64)
        self[f"{name}.num_batches_tracked"] = torch.tensor(17)

    def authors_cbam(self, prefix, channels, reduction=16, spatial=True):
        self.layer(f"{prefix}ChannelGate.mlp.1", channels // reduction, channels, bias=True)
        self.layer(f"{prefix}ChannelGate.mlp.3", channels, channels // reduction, bias=True)
        if spatial:
            self.layer(f"{prefix}SpatialGate.spatial.conv", 1, 2, 7, 7)
            self.bn(f"{prefix}SpatialGate.spatial.bn", 1)

    def authors_bam(self, prefix, channels):
        hidden = channels // 16
        c, s = f"{prefix}channel_att.gate_c.gate_c_", f"{prefix}spatial_att.gate_s.gate_s_"
        self.layer(f"{c}fc_0", hidden, channels, bias=True)
        self.bn(f"{c}bn_1", hidden)
        self.layer(f"{c}fc_final", channels, hidden, bias=True)
        self.layer(f"{s}conv_reduce0", hidden, channels, 1, 1, bias=True)
        self.bn(f"{s}bn_reduce0", hidden)
        for i in range(2):
            self.layer(f"{s}conv_di_{i}", hidden, hidden, 3, 3, bias=True)
            self.bn(f"{s}bn_di_{i}", hidden)
        self.layer(f"{s}conv_final", 1, hidden, 1, 1, bias=True)

    def luuuyi(self, prefix, channels, names=("fc1", "fc2")):
        self.layer(f"{prefix}ca.{names[0]}", channels // 16, channels, 1, 1)
        self.layer(f"{prefix}ca.{names[1]}", channels, channels // 16, 1, 1)
        self.layer(f"{prefix}sa.conv1", 1, 2, 7, 7)

    def resnet(self, attention, depths, bottleneck, stem, widths=WIDTHS, num_classes=10):
        """``attention(name of the block, channels)`` writes what is inside a block."""
        self.layer("conv1", widths[0], 3, stem, stem)
        self.bn("bn1", widths[0])
        before = widths[0]
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True), start=1):
            channels = width * 4 if bottleneck else width
            for i in range(depth):
                block = f"layer{stage}.{i}"
                shapes = [(width, before, 3, 3), (width, width, 3, 3)]
                if bottleneck:
                    shapes = [(width, before, 1, 1), (width, width, 3, 3), (channels, width, 1, 1)]
                for number, shape in enumerate(shapes, start=1):
                    self.layer(f"{block}.conv{number}", *shape)
                    self.bn(f"{block}.bn{number}", shape[0])
                if before != channels or (i == 0 and stage > 1):
                    self.layer(f"{block}.downsample.0", channels, before, 1, 1)
                    self.bn(f"{block}.downsample.1", channels)
                attention(block, channels)
                before = channels
        self.layer("fc", num_classes, before, bias=True)
        return self


def authors(attention, depths=(1, 2, 1, 1), bottleneck=False, stem=3, **options):
    """The authors' network with ``CBAM``, ``BAM``, ``channel`` (CBAM with no_spatial), or ``none``."""
    w = Writer()
    if attention == "BAM":
        for i, width in enumerate(WIDTHS[:3], start=1):
            w.authors_bam(f"bam{i}.", width * (4 if bottleneck else 1))

    def in_block(block, channels):
        if attention in ("CBAM", "channel"):
            w.authors_cbam(f"{block}.cbam.", channels, spatial=attention == "CBAM")

    w.resnet(in_block, depths, bottleneck, stem, **options)
    return dict(w)


def luuuyi(names=("fc1", "fc2"), depths=(1, 2, 1, 1), bottleneck=False, **options):
    w = Writer()
    w.resnet(lambda block, channels: w.luuuyi(f"{block}.", channels, names), depths, bottleneck, 7, **options)
    return dict(w)


def bn(s, name, x):
    mean, var, weight, bias = (
        s[f"{name}.{key}"].view(1, -1, *[1] * (x.ndim - 2))
        for key in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias


def conv(s, name, x, stride=1, dilation=1):
    weight = s[f"{name}.weight"]
    padding = weight.shape[-1] // 2 * dilation
    return F.conv2d(x, weight, s.get(f"{name}.bias"), stride, padding, dilation)


def linear(s, name, x):
    return x @ s[f"{name}.weight"].T + s[f"{name}.bias"]


def authors_cbam_forward(s, prefix, x):
    """The authors' MODELS/cbam.py, with or without its spatial half."""

    def mlp(v):
        hidden = linear(s, f"{prefix}ChannelGate.mlp.1", v).clamp(min=0)
        return linear(s, f"{prefix}ChannelGate.mlp.3", hidden)

    x = x * torch.sigmoid(mlp(x.mean((2, 3))) + mlp(x.amax((2, 3))))[:, :, None, None]
    if f"{prefix}SpatialGate.spatial.conv.weight" not in s:
        return x
    pooled = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)
    logits = bn(s, f"{prefix}SpatialGate.spatial.bn", conv(s, f"{prefix}SpatialGate.spatial.conv", pooled))
    return x * torch.sigmoid(logits)


def authors_bam_forward(s, prefix, x):
    """The authors' MODELS/bam.py."""
    c, sp = f"{prefix}channel_att.gate_c.gate_c_", f"{prefix}spatial_att.gate_s.gate_s_"
    v = bn(s, f"{c}bn_1", linear(s, f"{c}fc_0", x.mean((2, 3)))).clamp(min=0)
    channel = linear(s, f"{c}fc_final", v)[:, :, None, None]
    y = bn(s, f"{sp}bn_reduce0", conv(s, f"{sp}conv_reduce0", x)).clamp(min=0)
    for i in range(2):
        y = bn(s, f"{sp}bn_di_{i}", conv(s, f"{sp}conv_di_{i}", y, dilation=4)).clamp(min=0)
    return x * (1 + torch.sigmoid(channel * conv(s, f"{sp}conv_final", y)))


def luuuyi_forward(s, prefix, x, names=("fc1", "fc2")):
    """luuuyi's model/resnet_cbam.py: no biases, the mean first, no BatchNorm."""

    def mlp(v):
        return conv(s, f"{prefix}ca.{names[1]}", conv(s, f"{prefix}ca.{names[0]}", v).clamp(min=0))

    x = torch.sigmoid(mlp(x.mean((2, 3), keepdim=True)) + mlp(x.amax((2, 3), keepdim=True))) * x
    pooled = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
    return torch.sigmoid(conv(s, f"{prefix}sa.conv1", pooled)) * x


def resnet_forward(s, x, in_block, after_stage=lambda stage, x: x):
    """The network around them: v1.5 strides, and for a 7x7 stem a max-pool."""
    large = s["conv1.weight"].shape[-1] == 7
    x = bn(s, "bn1", conv(s, "conv1", x, stride=2 if large else 1)).clamp(min=0)
    x = F.max_pool2d(x, 3, 2, 1) if large else x
    for stage in range(1, 5):
        for i in range(100):
            block = f"layer{stage}.{i}"
            if f"{block}.conv1.weight" not in s:
                break
            stride = 2 if i == 0 and stage > 1 else 1
            last = 3 if f"{block}.conv3.weight" in s else 2
            y = x
            for number in range(1, last + 1):
                strided = number == (2 if last == 3 else 1)
                y = conv(s, f"{block}.conv{number}", y, stride if strided else 1)
                y = bn(s, f"{block}.bn{number}", y)
                y = y.clamp(min=0) if number < last else y
            shortcut = x
            if f"{block}.downsample.0.weight" in s:
                shortcut = bn(s, f"{block}.downsample.1", conv(s, f"{block}.downsample.0", x, stride))
            x = (in_block(block, y) + shortcut).clamp(min=0)
        x = after_stage(stage, x)
    return linear(s, "fc", x.mean((2, 3)))


def authors_forward(s, x):
    return resnet_forward(
        s,
        x,
        lambda block, y: (
            authors_cbam_forward(s, f"{block}.cbam.", y)
            if f"{block}.cbam.ChannelGate.mlp.1.weight" in s
            else y
        ),
        lambda stage, y: (
            authors_bam_forward(s, f"bam{stage}.", y)
            if "bam1.channel_att.gate_c.gate_c_fc_0.weight" in s and stage < 4
            else y
        ),
    )
