from pathlib import Path

import pytest
import torch
from torchvision import datasets

from cbam_lightning.data import CocoDetection, FashionScenes, VOCDetection
from cbam_lightning.data.detection.scene_files import write_scenes
from cbam_lightning.errors import UsageError
from tests.command import call
from tests.data.detection.conftest import SCENES


def drawn():
    return FashionScenes(scene_seed=3, augmentation="none", val_fraction=0.0, **SCENES)


def read(layout, folder):
    options = {"val_fraction": 0.0, "num_workers": 0, "augmentation": "none", "size_px": None}
    if layout == "coco":
        return CocoDetection(str(folder), **options)
    return VOCDetection(str(folder), years=(2007,), class_names=FashionScenes.class_names, **options)


@pytest.mark.parametrize("layout", ["voc", "coco"])
@pytest.mark.parametrize("train", [True, False])
def test_both_formats_read_back_as_drawn(layout, train, request):
    expected = drawn().load_part(train)
    module = read(layout, request.getfixturevalue(f"{layout}_scenes"))
    found = module.load_part(train)
    assert torch.equal(found.objects.boxes, expected.objects.boxes)
    assert torch.equal(found.objects.labels, expected.objects.labels)
    assert torch.equal(found.objects.difficult, expected.objects.difficult)
    assert torch.equal(found.image_of_object, expected.image_of_object)
    assert torch.equal(found.sizes, expected.sizes)
    assert len(found.objects.labels) > 5
    if layout == "coco":
        assert torch.equal(found.objects.areas, expected.objects.areas)
    assert module.class_names == FashionScenes.class_names


@pytest.mark.parametrize("layout", ["voc", "coco"])
def test_pictures_are_those_that_were_drawn(layout, request):
    module = read(layout, request.getfixturevalue(f"{layout}_scenes"))
    pairs = zip(module.test_set[range(4)].batch.images, drawn().test_set[range(4)].batch.images, strict=True)
    for found, expected in pairs:
        assert (found.int() - expected.int()).abs().float().mean() < 3  # JPEG


def test_torchvision_reads_the_voc_tree(voc_scenes):
    expected = drawn().load_part(train=False)
    found = datasets.VOCDetection(str(voc_scenes), year="2007", image_set="test")
    assert len(found) == 4
    for i, (image, content) in enumerate(found):
        objects = content["annotation"]["object"]
        boxes = [[float(o["bndbox"][side]) for side in ("xmin", "ymin", "xmax", "ymax")] for o in objects]
        # from 1, and including the last pixel
        assert boxes == (expected.of_image(i).boxes + torch.tensor([1, 1, 0, 0])).tolist()
        labels = [FashionScenes.class_names.index(o["name"]) + 1 for o in objects]
        assert labels == expected.of_image(i).labels.tolist()
        assert image.size == (64, 64)


def test_pycocotools_reads_the_coco_tree(coco_scenes):
    pytest.importorskip("pycocotools")
    expected = drawn().load_part(train=True)
    annotations = coco_scenes / "annotations" / "instances_train2017.json"
    found = datasets.CocoDetection(str(coco_scenes / "train2017"), str(annotations))
    assert len(found) == 10
    for i, (_, objects) in enumerate(found):
        boxes = torch.tensor([o["bbox"] for o in objects])
        boxes[:, 2:] += boxes[:, :2]
        assert torch.equal(boxes, expected.of_image(i).boxes)
        assert [o["category_id"] for o in objects] == expected.of_image(i).labels.tolist()


def test_grey_scenes_are_written_grey(tmp_path):
    options = SCENES | {"num_images": 1, "num_test_images": 1, "in_channels": 1}
    write_scenes(tmp_path / "new", "voc", **options)
    (image, _), *_ = datasets.VOCDetection(str(tmp_path / "new"), year="2007", image_set="test")
    assert image.mode == "RGB"  # torchvision converts
    (path, _) = sorted((tmp_path / "new").rglob("*.jpg"))
    assert b"\xff\xc0\x00\x0b\x08\x00\x40\x00\x40\x01" in Path(path).read_bytes()  # 64 x 64, one component


def test_nothing_is_overwritten(voc_scenes, tmp_path):
    with pytest.raises(UsageError, match="is not an empty folder; give a new one"):
        write_scenes(voc_scenes, "coco", **SCENES)
    with pytest.raises(UsageError, match=r"unknown layout 'coc'\. Did you mean 'coco'\?"):
        write_scenes(tmp_path / "new", "coc", **SCENES)
    assert not (tmp_path / "new").exists()


def test_the_command_writes_them(voc_scenes, capsys):
    words = "data scenes --num-images 10 --num-test-images 4 --size-px 64 --scene-seed 3 --layout"
    assert call(words, "voc --out scenes") == 0
    assert "Written: scenes" in capsys.readouterr().out
    written = sorted(path.relative_to("scenes") for path in Path("scenes").rglob("*") if path.is_file())
    # 1 to 5 garments instead of 1 to 4, but the same files
    assert written == sorted(path.relative_to(voc_scenes) for path in voc_scenes.rglob("*") if path.is_file())
    assert call(words, "coco --out scenes") == 2
    assert "scenes is not an empty folder" in capsys.readouterr().err
    assert call("data scenes --layout voc --out new --num-test-images 0") == 2
    assert "Change it with --num-test-images." in capsys.readouterr().err
