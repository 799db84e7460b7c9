import numpy as np
import pytest

from cbam_lightning.data.detection.scene_drawing import SceneMaker
from cbam_lightning.data.fashion_mnist import EMBEDDED_DIR
from cbam_lightning.data.idx import read_idx
from tests.data.generate import photographs


def maker(size_px=80, num_garments=(1, 5), clothes=None, backgrounds=None):
    if clothes is None:
        clothes = read_idx(EMBEDDED_DIR / "t10k-images-idx3-ubyte.gz", num_axes=3)
    labels = [i % 10 for i in range(len(clothes))]
    return SceneMaker(clothes, labels, backgrounds or photographs(), size_px, num_garments)


def blue():
    return [np.tile(np.array([0, 0, 255], dtype=np.uint8), (120, 100, 1))]


def squares():
    """A garment that is a white square of 20 x 12 pixels, with a black print in it."""
    clothes = np.zeros((1, 28, 28), dtype=np.uint8)
    clothes[0, 4:24, 8:20] = 255
    clothes[0, 10:15, 12:16] = 0
    return clothes


def test_a_scene_follows_from_its_seed():
    first, again, other = (maker().draw(seed) for seed in (4, 4, 5))
    assert np.array_equal(first[0], again[0])
    assert first[1] == again[1]
    assert not np.array_equal(first[0], other[0])
    assert first[0].shape == (80, 80, 3)
    assert first[0].dtype == np.uint8


def test_boxes_enclose_what_was_painted_to_the_pixel():
    one = maker(num_garments=(1, 1), backgrounds=blue())
    for seed in range(30):
        pixels, (garment,) = one.draw(seed)
        painted = (pixels != [0, 0, 255]).any(2)  # garments are grey, so they differ from any blue
        rows, columns = np.flatnonzero(painted.any(1)), np.flatnonzero(painted.any(0))
        assert garment.box == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        assert garment.visible == 1
        assert garment.visible_px == painted.sum()
        assert not garment.difficult


def test_prints_belong_to_the_garment():
    pixels, (garment,) = maker(clothes=squares(), num_garments=(1, 1), backgrounds=blue()).draw(0)
    left, top, right, bottom = garment.box
    assert garment.visible_px == (right - left) * (bottom - top)
    assert (pixels[top:bottom, left:right].max(2) == pixels[top:bottom, left:right].min(2)).all()
    assert pixels[top:bottom, left:right].min() < 50
    assert (bottom - top) / (right - left) == pytest.approx(20 / 12, rel=0.15)


def test_garments_cover_each_other_but_not_too_much():
    shared = maker(num_garments=(5, 5))
    garments = [g for seed in range(60) for g in shared.draw(seed)[1]]
    assert len(garments) > 290
    visible = np.array([garment.visible for garment in garments])
    assert visible.min() >= 0.3
    assert 0.2 < (visible < 1).mean() < 0.8
    assert all(garment.difficult == (garment.visible < 0.5) for garment in garments)
    assert 5 < sum(garment.difficult for garment in garments) < 60
    sides = np.array([max(g.box[2] - g.box[0], g.box[3] - g.box[1]) for g in garments if g.visible == 1])
    assert sides.min() < 0.22 * 80
    assert 0.45 * 80 < sides.max() <= 0.55 * 80 + 1


def test_the_number_of_garments_is_between_its_limits():
    few = maker(num_garments=(0, 2))
    counts = [len(few.draw(seed)[1]) for seed in range(40)]
    assert set(counts) == {0, 1, 2}


def test_backgrounds_are_parts_of_the_photographs():
    pixels, found = maker(120, (0, 0), backgrounds=[photographs()[0][100:220, 50:170]]).draw(1)
    assert np.array_equal(pixels, photographs()[0][100:220, 50:170])  # of the scene's size: nothing to resize
    assert found == []
