import pytest
import torch

from cbam_lightning.data.detection.annotations import as_objects
from cbam_lightning.data.detection.augmentation import Augmented

BLACK = (0.0, 0.0, 0.0)


def painted(boxes, height=48, width=80, channels=3):
    """A black image with white boxes; object i is of class i + 1."""
    image = torch.zeros(channels, height, width, dtype=torch.uint8)
    for left, top, right, bottom in boxes:
        image[:, top:bottom, left:right] = 255
    objects = as_objects([(box, i, False, False, i) for i, box in enumerate(boxes, 1)])
    return image, objects._replace(boxes=objects.boxes.float())


def extent(image):
    """Left, top, right and bottom of the white part; contrast and brightness may have changed."""
    white = image.amax(0) > image.max() / 2
    rows, columns = (torch.nonzero(white.any(axis)).flatten() for axis in (1, 0))
    return [columns[0].item(), rows[0].item(), columns[-1].item() + 1, rows[-1].item() + 1]


def augment(augmentation, size_px, boxes, seed, **options):
    torch.manual_seed(seed)
    image, objects = painted(boxes, **options)
    return Augmented(augmentation, size_px, BLACK[: len(image)])(image, objects)


def test_without_augmentation_image_and_boxes_stay():
    image, objects = painted([(10, 5, 40, 30)])
    changed, kept = Augmented("none", None, BLACK)(image, objects)
    assert torch.equal(changed, image)
    assert type(changed) is type(kept.boxes) is torch.Tensor
    assert all(torch.equal(a, b) for a, b in zip(kept, objects, strict=True))


def test_mirroring_is_exact():
    seen = set()
    for seed in range(20):
        image, objects = augment("flip", None, [(10, 5, 40, 30)], seed)
        seen.add(tuple(objects.boxes[0].tolist()))
        assert objects.boxes[0].tolist() == extent(image)
    assert seen == {(10, 5, 40, 30), (80 - 40, 5, 80 - 10, 30)}


def test_resizing_ignores_the_aspect_ratio():
    image, objects = augment("none", 96, [(20, 12, 40, 36)], 0)  # from 48 x 80
    assert image.shape == (3, 96, 96)
    expected = [20 * 96 / 80, 12 * 2, 40 * 96 / 80, 36 * 2]
    torch.testing.assert_close(objects.boxes[0], torch.tensor(expected))
    assert extent(image) == pytest.approx(expected, abs=1)


def test_the_boxes_of_ssd_enclose_what_was_painted():
    kept = changed = 0
    for seed in range(60):
        image, objects = augment("ssd", 96, [(20, 10, 52, 34)], seed)
        assert image.shape == (3, 96, 96)
        assert image.dtype == torch.uint8
        if not len(objects.boxes):
            continue
        box = objects.boxes[0].tolist()
        kept += 1
        changed += abs(box[2] - box[0] - 32 * 96 / 80) > 2
        assert extent(image) == pytest.approx(box, abs=1.5), seed
        assert min(box) >= 0
        assert max(box) <= 96
    assert kept > 55
    assert changed > 40  # zoomed out or cut


def test_zooming_out_surrounds_with_the_mean():
    image, objects = painted([(0, 0, 80, 48)])
    augmented = Augmented("ssd", 64, (0.2, 0.4, 0.6))
    found = set()
    for seed in range(30):
        torch.manual_seed(seed)
        changed, kept = augmented(image, objects)
        left, top, right, bottom = kept.boxes[0].tolist()
        if left > 3 and top > 3 and right < 61 and bottom < 61:
            found.add(tuple(changed[:, 0, 0].tolist()))
    assert found == {(51, 102, 153)}


def test_what_belongs_to_a_lost_box_is_lost_with_it():
    boxes = [(0, 0, 16, 12), (60, 30, 80, 48), (30, 20, 50, 30)]
    lost = 0
    for seed in range(20):
        _, objects = augment("ssd", 96, boxes, seed)
        assert {len(values) for values in objects} == {len(objects.labels)}
        assert objects.areas.tolist() == objects.labels.tolist()
        lost += 3 - len(objects.labels)
    assert lost > 5


@pytest.mark.parametrize("augmentation", ["ssd", "flip", "none"])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_without_boxes_and_tiny_ones_go_through(augmentation, channels):
    for seed in range(10):
        image, objects = augment(augmentation, 32, [], seed, channels=channels)
        assert image.shape == (channels, 32, 32)
        assert objects.boxes.shape == (0, 4)
        image, _ = augment(augmentation, 32, [(0, 0, 2, 1)], seed, channels=channels, height=1, width=2)
        assert image.shape == (channels, 32, 32)


def test_the_random_numbers_come_from_the_generator():
    first, again, other = (augment("ssd", 64, [(20, 10, 52, 34)], seed) for seed in (5, 5, 6))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1].boxes, again[1].boxes)
    assert not torch.equal(first[0], other[0])
