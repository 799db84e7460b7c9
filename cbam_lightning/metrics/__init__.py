"""Metrics that torchmetrics lacks: an exact mean loss on any number of devices, VOC's average precision."""
