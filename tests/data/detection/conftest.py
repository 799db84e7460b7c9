import pytest

from cbam_lightning.data.detection.scene_files import write_scenes

SCENES = {"num_images": 10, "num_test_images": 4, "size_px": 64, "num_garments": (1, 4)}


@pytest.fixture(scope="session")
def voc_scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("voc"), "voc", seed=3, **SCENES)


@pytest.fixture(scope="session")
def coco_scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("coco"), "coco", seed=3, **SCENES)
