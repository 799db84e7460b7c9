import torch

from cbam_lightning.data.detection.annotations import annotate, without_objects


def four_images():
    """Images a to d with 2, 0, 1 and 2 objects, given out of order; the box of object i begins at i."""
    return annotate(
        ["a", "b", "c", "d"],
        [7, 3, 9, 1],
        [(10, 20)] * 4,
        [((i, i, i + 2, i + 2), i + 1, i == 2, i == 3, 4.0) for i in range(5)],
        [3, 0, 2, 3, 0],
    )


def labels(annotations):
    return [annotations.of_image(i).labels.tolist() for i in range(len(annotations))]


def test_objects_come_to_their_images_in_their_order():
    annotations = four_images()
    assert labels(annotations) == [[2, 5], [], [3], [1, 4]]
    assert annotations.of_image(3).boxes[:, 0].tolist() == [0.0, 3.0]
    assert annotations.image_of_object.tolist() == [0, 0, 2, 3, 3]
    assert annotations.of_image(1).boxes.shape == (0, 4)


def test_selected_images_keep_their_objects():
    chosen = four_images().select(torch.tensor([1, 3]))
    assert [chosen.name(i) for i in range(2)] == ["b", "d"]
    assert labels(chosen) == [[], [1, 4]]
    assert chosen.image_ids.tolist() == [3, 1]
    assert labels(chosen.select(torch.tensor([1]))) == [[1, 4]]


def test_difficult_objects_and_crowds_are_not_learnt():
    assert labels(four_images().to_learn(keep_negatives=True)) == [[2, 5], [], [], [1]]
    learnt = four_images().to_learn(keep_negatives=False)
    assert labels(learnt) == [[2, 5], [1]]
    assert [learnt.name(i) for i in range(2)] == ["a", "d"]


def test_images_without_annotations():
    unknown = without_objects(["x.jpg", "ä.jpg"])
    assert labels(unknown) == [[], []]
    assert unknown.name(1) == "ä.jpg"
    assert unknown.sizes.tolist() == [[0, 0], [0, 0]]
