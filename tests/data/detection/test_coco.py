import json
import unicodedata

import pytest
from PIL import Image

from cbam_lightning.data import CocoDetection
from cbam_lightning.errors import UsageError
from tests.data.detection.written import annotation, write_coco

SMALL = {"num_workers": 0, "val_fraction": 0.0}


def test_category_ids_with_gaps_become_labels_and_lead_back(tmp_path):
    given = [annotation(i, 5, category) for i, category in enumerate((90, 3, 17), 1)]
    data = CocoDetection(str(write_coco(tmp_path, given)), **SMALL)
    assert data.class_names == ("cat", "dog", "toothbrush")
    assert (data.num_classes, data.category_ids) == (3, (3, 17, 90))
    labels = next(iter(data.test_dataloader())).batch.targets[0]["labels"].tolist()
    assert labels == [3, 1, 2]
    assert [data.category_ids[label - 1] for label in labels] == [90, 3, 17]


@pytest.mark.parametrize(("keep", "images"), [(False, [9]), (True, [5, 7, 9])])
def test_images_without_objects_to_learn(tmp_path, keep, images):
    given = [annotation(1, 5, iscrowd=1), annotation(2, 9), annotation(3, 9, iscrowd=1)]
    root = str(write_coco(tmp_path, given, images=(5, 7, 9)))
    data = CocoDetection(root, keep_negatives=keep, **SMALL)
    batch = next(iter(data.train_dataloader())).batch
    assert sorted(batch.image_ids.tolist()) == images
    assert sum(len(t["boxes"]) for t in batch.targets) == 1
    tested = next(iter(data.test_dataloader())).batch
    assert [t["crowd"].tolist() for t in tested.targets] == [[True], [], [False, True]]
    assert tested.targets[1]["boxes"].shape == (0, 4)


def test_both_files_have_the_same_categories(tmp_path):
    path = write_coco(tmp_path, [annotation()]) / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    content["categories"][0]["id"] = 89
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"the categories of .*train2017\.json differ from those of val2017"):
        CocoDetection(str(tmp_path), **SMALL).setup("fit")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["my photo 1.png", "IMG1 (copy).JPG", "l\u00e4ufe.jpeg", "la\u0308ufe.jpg"])
def test_names_of_any_kind_and_a_byte_order_mark(tmp_path, encoding, name):
    root = write_coco(tmp_path, [annotation()], images=(5,))
    # the file has one Unicode form, and the annotation the other
    listed = unicodedata.normalize("NFD" if unicodedata.is_normalized("NFC", name) else "NFC", name)
    for part in ("train2017", "val2017"):
        with Image.open(root / part / "000000000005.jpg") as image:
            image.save(root / part / name)
        path = root / "annotations" / f"instances_{part}.json"
        content = json.loads(path.read_text())
        content["images"][0]["file_name"] = listed
        path.write_text(json.dumps(content, ensure_ascii=False), encoding=encoding)
    data = CocoDetection(str(root), **SMALL)
    assert data.test_set.name(0) == str(root / "val2017" / name)
    assert data.test_set[0].bad == ()


def test_a_missing_file_says_where_to_get_the_data(tmp_path):
    with pytest.raises(UsageError, match=r"there is no .*instances_val2017\.json; .*cocodataset\.org"):
        CocoDetection(str(tmp_path))
