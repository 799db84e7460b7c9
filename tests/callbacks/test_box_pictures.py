import numpy as np
import pytest
import torch
import wandb
from matplotlib.patches import Rectangle

from cbam_lightning.callbacks.box_pictures import _for_wandb, draw_boxes
from cbam_lightning.callbacks.box_predictions import as_results

TRUTH = {"boxes": torch.tensor([[2.0, 1, 6, 4]]), "labels": torch.tensor([2])}
FOUND = {
    "boxes": torch.tensor([[1.0, 0, 5, 4], [0, 0, 3, 3]]),
    "labels": torch.tensor([2, 1]),
    "scores": torch.tensor([0.75, 0.5]),
}


def test_objects_are_green_and_detections_red_around_their_pixels():
    image = torch.rand(1, 5, 8, generator=torch.Generator().manual_seed(0))
    figure = draw_boxes([(image, TRUTH, FOUND)], ("cat", "dog"))
    (panel,) = [axis for axis in figure.axes if axis.get_images()]
    shown = np.asarray(panel.get_images()[0].get_array())
    assert np.array_equal(shown, image.expand(3, -1, -1).permute(1, 2, 0).numpy())
    patches = [patch for patch in panel.patches if isinstance(patch, Rectangle)]
    # pixel (x, y) covers x - 0.5 to x + 0.5 on the axes of a picture
    assert [patch.get_bbox().extents.tolist() for patch in patches] == [
        [1.5, 0.5, 5.5, 3.5],
        [0.5, -0.5, 4.5, 3.5],
        [-0.5, -0.5, 2.5, 2.5],
    ]
    assert [text.get_text() for text in panel.texts] == ["dog", "dog 75%", "cat 50%"]
    colours = [text.get_color() for text in panel.texts]
    assert colours[0] == "limegreen"
    assert colours[1:] == ["tomato", "tomato"]


def test_boxes_of_wandb():
    names = {1: "cat", 2: "dog"}
    boxes = {"objects": _for_wandb(TRUTH, names), "detections": _for_wandb(FOUND, names)}
    assert boxes["detections"]["box_data"][0] == {
        "position": {"minX": 1.0, "minY": 0.0, "maxX": 5.0, "maxY": 4.0},
        "domain": "pixel",
        "class_id": 2,
        "box_caption": "dog",
        "scores": {"score": 0.75},
    }
    wandb.Image(np.zeros((5, 8, 1), dtype=np.float32), boxes=boxes)  # which checks them


def test_results_are_cocos():
    first, second = as_results(FOUND, 17, (90, 3))
    assert first == {"image_id": 17, "category_id": 3, "bbox": [1.0, 0.0, 4.0, 4.0], "score": 0.75}
    assert second["category_id"] == 90
    assert second["bbox"] == pytest.approx([0, 0, 3, 3])
