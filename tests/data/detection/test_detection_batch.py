import torch
from pytorch_lightning.utilities import move_data_to_device

from cbam_lightning.data import DetectionBatch
from cbam_lightning.data.detection.detection_batch import scale_boxes


def test_boxes_go_to_another_size_and_back():
    boxes = torch.tensor([[10.0, 20.0, 30.0, 60.0]], dtype=torch.float64)
    scaled = scale_boxes(boxes, (100, 50), (300, 100))  # 3 times as high, twice as wide
    assert scaled.tolist() == [[20.0, 60.0, 60.0, 180.0]]
    torch.testing.assert_close(scale_boxes(scaled, (300, 100), (100, 50)), boxes)
    assert scale_boxes(torch.zeros(0, 4), (3, 4), (5, 6)).shape == (0, 4)


def test_lightning_moves_every_tensor():
    ids = torch.tensor([1])
    targets = [{"boxes": torch.zeros(2, 4), "labels": torch.tensor([1, 2])}]
    batch = DetectionBatch([torch.zeros(3, 4, 5)], targets, ids, torch.tensor([[4, 5]]), ids)
    moved = move_data_to_device(batch, torch.device("meta"))
    assert isinstance(moved, DetectionBatch)
    tensors = [*moved.images, *moved.targets[0].values(), *moved[2:]]
    assert [tensor.device.type for tensor in tensors] == ["meta"] * 6
