"""What ``torchmetrics`` lacks: a mean loss that is the same on any number of devices, average precision."""
