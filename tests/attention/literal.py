"""CBAM written out step by step in elementary operations, to compare the package with."""

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


def channel_gate(x, weights, pools=("avg", "max"), gate="sigmoid"):
    total = 0
    for pool in pools:
        pooled = torch.stack([torch.stack([pool_plane(plane, pool) for plane in image]) for image in x])
        hidden = (pooled @ weights["mlp.0.weight"].T + weights["mlp.0.bias"]).clamp(min=0)
        total = total + hidden @ weights["mlp.2.weight"].T + weights["mlp.2.bias"]
    return sigmoid(total, gate)[:, :, None, None]


def convolve(maps, kernel):
    """Slide the (M, k, k) kernel over the zero-padded (N, M, H, W) maps, to (N, H, W)."""
    side = kernel.shape[-1]
    n, m, height, width = maps.shape
    padded = maps.new_zeros(n, m, height + side - 1, width + side - 1)
    padded[:, :, side // 2 : side // 2 + height, side // 2 : side // 2 + width] = maps
    rows = [
        torch.stack(
            [(padded[:, :, i : i + side, j : j + side] * kernel).sum((1, 2, 3)) for j in range(width)], dim=1
        )
        for i in range(height)
    ]
    return torch.stack(rows, dim=1)


def spatial_gate(x, weights, spatial_pool="avg+max", relu=False, gate="sigmoid", training=True):
    if spatial_pool == "conv1x1":
        maps = (x * weights["reduce.weight"][0]).sum(1)[:, None]
    else:
        maps = torch.stack([x.max(dim=1).values, x.sum(1) / x.shape[1]], dim=1)
    z = convolve(maps, weights["conv.weight"][0])
    if training:
        mean = z.sum() / z.numel()
        variance = ((z - mean) ** 2).sum() / z.numel()
    else:
        mean, variance = weights["bn.running_mean"], weights["bn.running_var"]
    z = weights["bn.weight"] * (z - mean) / (variance + 1e-5).sqrt() + weights["bn.bias"]
    return sigmoid(z.clamp(min=0) if relu else z, gate)[:, None]


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
