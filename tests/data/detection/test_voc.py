import pytest

from cbam_lightning.data import FashionScenes, VOCDetection
from cbam_lightning.data.detection.voc import VOC_CLASSES
from cbam_lightning.errors import UsageError
from tests.data.detection.written import voc_object, write_voc

SMALL = {"size_px": 32, "num_workers": 0, "augmentation": "none"}


@pytest.fixture
def devkit(tmp_path):
    """Ten training images of 2007, five of 2012 and two test images."""
    write_voc(tmp_path, *[voc_object("dog")] * 10)
    write_voc(tmp_path, voc_object("sofa", difficult=1), voc_object("person"), image_set="test")
    write_voc(tmp_path, *[voc_object("cow")] * 5, year=2012)
    return str(tmp_path)


def names(data, split):
    return [data.sample_name(split, i).partition("VOCdevkit/")[2] for i in range(len(data.split_set(split)))]


@pytest.mark.parametrize(
    ("years", "count", "name"),
    [((2007,), 10, "voc07"), ((2012,), 5, "voc12"), ((2012, 2007), 15, "voc07+12")],
)
def test_years_train_and_2007_tests(devkit, years, count, name):
    data = VOCDetection(devkit, years=years, val_fraction=0.2, **SMALL)
    assert data.dataset_name == name
    train, val = names(data, "train"), names(data, "val")
    assert len(val) == round(count * 0.2)
    assert len(set(train) | set(val)) == len(train) + len(val) == count
    assert {path[:7] for path in train + val} == {f"VOC{year}" for year in years}
    assert names(data, "test") == [f"VOC2007/JPEGImages/0000{i}.jpg" for i in (10, 11)]


def test_the_seed_of_the_split_alone_changes_it(devkit):
    first, again, other = (
        names(VOCDetection(devkit, split_seed=seed, val_fraction=0.4, **SMALL), "val") for seed in (0, 0, 1)
    )
    assert first == again != other


def test_with_all_trained_on_validation_is_the_test(devkit):
    data = VOCDetection(devkit, val_fraction=0.0, **SMALL)
    assert len(data.train_set) == 15
    assert names(data, "val") == names(data, "test")


def test_difficult_objects_are_tested_with_but_not_learnt(devkit):
    data = VOCDetection(devkit, years=(2007,), **SMALL)
    batch = next(iter(data.test_dataloader())).batch
    assert [t["difficult"].tolist() for t in batch.targets] == [[True], [False]]
    assert [VOC_CLASSES[t["labels"][0] - 1] for t in batch.targets] == ["sofa", "person"]


@pytest.mark.parametrize(("keep", "count"), [(False, 1), (True, 3)])
def test_images_without_objects_to_learn(tmp_path, keep, count):
    write_voc(tmp_path, "", voc_object(difficult=1), voc_object() + voc_object("dog", difficult=1))
    write_voc(tmp_path, voc_object(), image_set="test")
    data = VOCDetection(str(tmp_path), years=(2007,), val_fraction=0.0, keep_negatives=keep, **SMALL)
    batch = next(iter(data.train_dataloader())).batch
    assert sorted(t["labels"].tolist() for t in batch.targets) == [[]] * (count - 1) + [[8]]
    assert all(t["boxes"].shape == (len(t["labels"]), 4) for t in batch.targets)


def test_without_any_object_there_is_nothing_to_train_on(tmp_path):
    write_voc(tmp_path, "", voc_object(difficult=1))
    with pytest.raises(
        UsageError, match=r"voc07 has no image left for train: .* --data\.keep_negatives true"
    ):
        VOCDetection(str(tmp_path), years=(2007,), **SMALL).setup("fit")


def test_other_classes_in_the_same_format(voc_scenes):
    options = SMALL | {"years": (2007,), "class_names": FashionScenes.class_names}
    data = VOCDetection(str(voc_scenes), **options)
    assert (data.num_classes, data.category_ids) == (10, tuple(range(1, 11)))
    with pytest.raises(UsageError, match=r"\.xml: object 1 .*: unknown class .* --data\.class_names"):
        VOCDetection(str(voc_scenes), years=(2007,), **SMALL).setup()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"years": ()}, r"years is \[\]; allowed: \[2007\], \[2012\] or \[2007, 2012\]"),
        ({"years": (2010,)}, r"years is \[2010\]"),
        ({"years": (2007, 2007)}, r"years is \[2007, 2007\]"),
        ({"class_names": ()}, r"class_names is \[\]"),
        ({"class_names": ("a", "a")}, r"class_names is \['a', 'a'\]; allowed: one or more names, each once"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        VOCDetection(**options)


def test_a_missing_folder_says_where_to_get_the_data(tmp_path):
    with pytest.raises(UsageError, match=r"VOCdevkit/VOC2007 is not a folder; .*host\.robots\.ox\.ac\.uk"):
        VOCDetection(str(tmp_path)).setup("fit")
