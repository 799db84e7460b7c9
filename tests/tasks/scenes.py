"""Random detections and objects, crowded enough for every rule to matter."""

import torch


def random_scenes(seed, num_images=40, num_classes=4, size=100):
    """Return detections and targets; a seventh of the objects are difficult, some images have none."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    def boxes(count):
        corner, extent = uniform(count, 2) * size * 0.6, uniform(count, 2) * size * 0.35 + 4
        return torch.cat([corner, corner + extent], 1)

    detections, targets = [], []
    for image in range(num_images):
        count = 0 if image % 9 == 5 else int(uniform(1) * 8) + 1
        truth = boxes(count)
        neighbours = truth[: count // 2] + uniform(count // 2, 4) * 6
        truth = torch.cat([truth, neighbours])
        labels = torch.randint(1, num_classes + 1, (len(truth),), generator=generator)
        near = truth.repeat(2, 1)
        near = near + (uniform(len(near), 4) - 0.5) * 8
        near[:, 2:] = torch.maximum(near[:, 2:], near[:, :2] + 2)
        far = boxes(6)
        found = torch.cat([near, far])
        named = torch.cat([labels, labels, torch.randint(1, num_classes + 1, (6,), generator=generator)])
        wrong = uniform(len(named)) < 0.15
        named = torch.where(wrong, named % num_classes + 1, named)
        detections.append({"boxes": found, "scores": uniform(len(found)), "labels": named})
        targets.append({"boxes": truth, "labels": labels, "difficult": uniform(len(truth)) < 1 / 7})
    return detections, targets
