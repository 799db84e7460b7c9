import numpy as np
import torch

from cbam_lightning.callbacks.class_pictures import draw_confusion, draw_predictions


def picture_of(axis):
    return np.asarray(axis.get_images()[0].get_array())


def test_pixels_are_shown_as_they_were_before_normalisation():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(3, 5, 7, generator=generator)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    image = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    probabilities = torch.tensor([0.2, 0.7, 0.1])
    figure = draw_predictions([(image, 0, probabilities)], ("a", "b", "c"), {"mean": mean, "std": std})
    (axis,) = [a for a in figure.axes if a.get_images()]
    assert np.allclose(picture_of(axis), pixels.permute(1, 2, 0).numpy(), atol=1e-6)
    assert axis.get_title() == "b 70%\nis a"
    assert axis.title.get_color() == "red"


def test_a_right_prediction_is_not_red_and_grey_images_work():
    figure = draw_predictions([(torch.zeros(1, 4, 4), 1, torch.tensor([0.1, 0.9]))] * 9, ("a", "b"), {})
    axes = [a for a in figure.axes if a.get_images()]
    assert len(axes) == 9
    assert axes[0].get_title() == "b 90%"
    assert axes[0].title.get_color() == "black"


def test_the_confusion_matrix_shows_shares_of_each_class():
    counts = torch.tensor([[3, 1], [0, 0]])
    axis = draw_confusion(counts, ("a", "b")).axes[0]
    assert picture_of(axis).tolist() == [[0.75, 0.25], [0.0, 0.0]]
    assert [t.get_text() for t in axis.texts] == ["3", "1", "0", "0"]
    assert [t.get_text() for t in axis.get_yticklabels()] == ["a", "b"]
