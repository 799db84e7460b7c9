"""The data module that `explain --data` names: its options, and what it cannot be given."""

from pathlib import Path

import pytest
from PIL import Image

from cbam_lightning import data
from cbam_lightning.cli.explain_commands import ExplainInputs
from cbam_lightning.cli.explained_data import build_module, module_class_of
from cbam_lightning.data.image_selection import spread
from cbam_lightning.errors import UsageError
from cbam_lightning.weights import Header

HEADER = Header("resnet20", "none", 2, 3, class_names=("cat", "dog"), size_px=48)
OPTIONS = {"size_px": 48, "in_channels": 3, "source": "full"}


class Photos(data.ImageFolder):
    def __init__(self, **kwargs):
        super().__init__("photos", **kwargs)


class Fixed(data.ImageFolder):
    def __init__(self):
        super().__init__("photos", size_px=48)


class Demanding(data.ImageFolder):
    def __init__(self, root, camera):
        super().__init__(root)


def built(module, root=None):
    inputs = ExplainInputs(["x"], data=module.__name__, root=root)
    return build_module(inputs, module, OPTIONS, HEADER, "size_px", "in_channels", "num_classes")


@pytest.fixture
def photos():
    for name in ("cat", "dog"):
        Path("photos", name).mkdir(parents=True)
        for shade in range(20):
            Image.new("RGB", (50, 40), (10 * shade,) * 3).save(f"photos/{name}/{name}{shade}.png")
        Path("photos", name, "notes.txt").write_text("x")
        Path("photos", name, "empty.png").touch()


@pytest.mark.parametrize(("module", "root"), [(data.ImageFolder, "photos"), (Photos, None)])
def test_options_reach_the_class_that_takes_them(photos, module, root):
    found = built(module, root)
    assert (found.size_px, found.in_channels) == (48, 3)
    assert len(spread(found.split_set("test"))) > 0  # files that are no images are left to the command


def test_a_module_without_options_is_built_as_it_is(photos):
    assert built(Fixed).size_px == 48


@pytest.mark.parametrize(
    ("module", "root", "message"),
    [
        (data.ImageFolder, None, "ImageFolder needs --root, the folder of its files"),
        (Fixed, "photos", "Fixed takes no folder; leave --root out"),
        (Photos, "photos", "Photos cannot be built"),
        (Demanding, "photos", "Demanding needs camera, and `explain` has no option for that"),
    ],
)
def test_what_a_module_cannot_be_given_is_told(photos, module, root, message):
    with pytest.raises(UsageError, match=message):
        built(module, root)


def test_images_without_classes_are_not_for_this_option():
    with pytest.raises(UsageError, match="unknown data module 'UnlabelledImages'"):
        module_class_of(ExplainInputs(["x"], data="UnlabelledImages"), data.ImageDataModule)
