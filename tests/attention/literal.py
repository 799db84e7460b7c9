"""Attention in elementary operations, step by step, as the reference of the tests.

Feature maps are (N, C, *positions) with any number of dimensions.
"""

import itertools

import torch


def sigmoid(logits, gate):
    value = 1 / (1 + torch.exp(-logits))
    return {"sigmoid": value, "identity": 2 * value}[gate]


def pool_plane(plane, pool):
    values = plane.flatten()
    if pool == "avg":
        return values.sum() / len(values)
    if pool == "max":
        return values.max()
    if pool == "lp":
        return (values * values).sum().sqrt()
    if pool == "lse":
        return values.exp().sum().log()
    raise KeyError(pool)


def pool_planes(x, pool):
    return torch.stack([torch.stack([pool_plane(plane, pool) for plane in image]) for image in x])


def channel_gate(x, weights, pools=("avg", "max"), gate="sigmoid"):
    total = 0
    for pool in pools:
        pooled = pool_planes(x, pool)
        hidden = (pooled @ weights["mlp.0.weight"].T + weights["mlp.0.bias"]).clamp(min=0)
        total = total + hidden @ weights["mlp.2.weight"].T + weights["mlp.2.bias"]
    return sigmoid(total, gate).reshape(*total.shape, *[1] * (x.ndim - 2))


def convolve(maps, kernel, dilation=1):
    """Slide the (M, k, …) kernel over the zero-padded (N, M, *positions) maps, to (N, *positions)."""
    n, m, *lengths = maps.shape
    margins = [dilation * (side // 2) for side in kernel.shape[1:]]
    padded = maps.new_zeros(
        n, m, *(length + 2 * margin for length, margin in zip(lengths, margins, strict=True))
    )
    inside = [slice(margin, margin + length) for length, margin in zip(lengths, margins, strict=True)]
    padded[:, :, *inside] = maps
    total = maps.new_zeros(n, *lengths)
    for tap in itertools.product(*map(range, kernel.shape[1:])):
        window = [slice(dilation * i, dilation * i + length) for i, length in zip(tap, lengths, strict=True)]
        for channel in range(m):
            total = total + kernel[channel, *tap] * padded[:, channel, *window]
    return total


def convolve_layer(maps, weights, name, dilation=1):
    """Apply every kernel of the layer, with its bias: (N, M, *positions) to (N, M', *positions)."""
    kernels, biases = weights[f"{name}.weight"], weights[f"{name}.bias"]
    answers = [convolve(maps, k, dilation) + b for k, b in zip(kernels, biases, strict=True)]
    return torch.stack(answers, dim=1)


def normalise_layer(z, weights, name, training):
    """Apply a BatchNorm layer to the channels of (N, M, *positions), one after the other."""
    channels = []
    for c in range(z.shape[1]):
        if training:
            mean = z[:, c].sum() / z[:, c].numel()
            variance = ((z[:, c] - mean) ** 2).sum() / z[:, c].numel()
        else:
            mean, variance = weights[f"{name}.running_mean"][c], weights[f"{name}.running_var"][c]
        normal = (z[:, c] - mean) / (variance + 1e-5).sqrt()
        channels.append(weights[f"{name}.weight"][c] * normal + weights[f"{name}.bias"][c])
    return torch.stack(channels, dim=1)


def spatial_gate(x, weights, spatial_pool="avg+max", relu=False, gate="sigmoid", training=True):
    if spatial_pool == "conv1x1":
        maps = (x * weights["reduce.weight"][0]).sum(1)[:, None]
    else:
        maps = torch.stack([x.max(dim=1).values, x.sum(1) / x.shape[1]], dim=1)
    z = normalise_layer(convolve(maps, weights["conv.weight"][0])[:, None], weights, "bn", training)
    return sigmoid(z.clamp(min=0) if relu else z, gate)


def cbam(x, weights, arrangement, pools, spatial_pool, spatial_relu, gate, training):
    def of(half):
        return {name.removeprefix(f"{half}."): value for name, value in weights.items() if half in name}

    def channel(y):
        return channel_gate(y, of("channel"), pools, gate)

    def spatial(y):
        return spatial_gate(y, of("spatial"), spatial_pool, spatial_relu, gate, training)

    if arrangement == "parallel":
        return x * channel(x) * spatial(x)
    if arrangement == "channel":
        return x * channel(x)
    if arrangement == "spatial":
        return x * spatial(x)
    if arrangement == "channel-spatial":
        y = x * channel(x)
        return y * spatial(y)
    if arrangement == "spatial-channel":
        y = x * spatial(x)
        return y * channel(y)
    raise KeyError(arrangement)


def bam(x, weights, variant, dilation, gate, training):
    hidden = pool_planes(x, "avg") @ weights["channel.fc1.weight"].T + weights["channel.fc1.bias"]
    hidden = normalise_layer(hidden, weights, "channel.bn", training).clamp(min=0)
    channel = hidden @ weights["channel.fc2.weight"].T + weights["channel.fc2.bias"]
    channel = channel.reshape(*channel.shape, *[1] * (x.ndim - 2))

    z = convolve_layer(x, weights, "spatial.reduce")
    z = normalise_layer(z, weights, "spatial.reduce_bn", training).clamp(min=0)
    z = convolve_layer(z, weights, "spatial.conv1", dilation)
    z = normalise_layer(z, weights, "spatial.bn1", training).clamp(min=0)
    z = convolve_layer(z, weights, "spatial.conv2", dilation)
    z = normalise_layer(z, weights, "spatial.bn2", training).clamp(min=0)
    spatial = convolve_layer(z, weights, "spatial.final")

    logits = {"official": channel * spatial, "paper": channel + spatial}[variant]
    return x * ({"sigmoid": 1, "identity": 0}[gate] + sigmoid(logits, gate))


def eca(x, weights, gate):
    means, kernel = pool_planes(x, "avg"), weights["conv.weight"][0, 0]
    n, channels = means.shape
    logits = []
    for c in range(channels):
        neighbours = [(tap, c + tap - len(kernel) // 2) for tap in range(len(kernel))]
        logits.append(sum(kernel[tap] * means[:, i] for tap, i in neighbours if 0 <= i < channels))
    gates = sigmoid(torch.stack(logits, dim=1), gate)
    return x * gates.reshape(n, channels, *[1] * (x.ndim - 2))


def sagan(x, weights):
    attended = []
    for image in x.flatten(2):  # (C, L)
        key, query = weights["key.weight"][:, :, 0] @ image, weights["query.weight"][:, :, 0] @ image
        value = weights["value.weight"][:, :, 0] @ image
        columns = []
        for j in range(image.shape[1]):
            scores = torch.exp((key * query[:, j, None]).sum(0))  # of every position i, seen from j
            columns.append((value * (scores / scores.sum())).sum(1))
        attended.append(weights["output.weight"][:, :, 0] @ torch.stack(columns, dim=1))
    return x + weights["gamma"] * torch.stack(attended).reshape(x.shape)
