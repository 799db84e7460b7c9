"""Checks of option values."""

import math
from functools import partial

import numpy as np
import pytest

from cbam_lightning.attention import create_attention
from cbam_lightning.attention.registry import option_names
from cbam_lightning.checks import check_odd, check_positive, is_finite, is_whole, require_at_least
from cbam_lightning.data.class_folders import channel_statistics
from cbam_lightning.errors import UsageError
from cbam_lightning.models import create_model
from cbam_lightning.models.detection import create_detector
from tests.attention.cases import NAMES, numbers

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize("value", [True, False, None, 1.0, NAN, "1", [1], 1j])
def test_what_is_no_whole_number(value):
    assert not is_whole(value)
    for check in (check_positive, check_odd):
        with pytest.raises(UsageError, match=r"^size is .*whole number"):
            check("size", value)


def test_whole_and_finite_numbers():
    assert all(map(is_whole, (0, -1, 10**30)))
    assert all(map(is_finite, (0, -1.5, 10**30, np.float32(1.5), np.int64(3))))
    assert not any(map(is_finite, (True, False, NAN, INF, -INF, "1", None, [1], np.bool_(True), 1j, 10**400)))


@pytest.mark.parametrize("value", [True, NAN, INF, 0, "3", [3]])
def test_bounds_take_finite_numbers(value):
    with pytest.raises(UsageError, match=r"batch_size is .*allowed: 1 or more"):
        require_at_least(1, batch_size=value)
    require_at_least(1, batch_size=2, limit=None)


WITH_DIMS = {name: {"dims"} & option_names(name) for name in NAMES}
OPTIONS = {
    "num_classes": partial(create_model, "resnet8"),
    "in_channels": partial(create_model, "resnet8"),
    "stem_width": partial(create_model, "resnet8"),
    "width_multiplier": partial(create_model, "mobilenet_v1"),
    "groups": partial(create_model, "resnet50"),
    "width_per_group": partial(create_model, "resnet50"),
    "detections_per_img": partial(create_detector, "ssd_resnet18_cifar"),
    "score_thresh": partial(create_detector, "ssd_resnet18_cifar"),
    "trainable_stages": partial(create_detector, "ssd_resnet18_cifar"),
    **{
        f"{name}: {option}": partial(create_attention, name, 8)
        for name in NAMES
        for option in (*numbers(name), *WITH_DIMS[name])
    },
}


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize("case", OPTIONS)
def test_true_and_false_are_no_numbers(case, value):
    option = case.rpartition(" ")[2]
    with pytest.raises(UsageError, match=rf"{option} is {value}; (give|allowed)") as caught:
        OPTIONS[case](**{option: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["no", 0, 1, None, [True]])
def test_a_switch_takes_nothing_else(value):
    with pytest.raises(UsageError, match=r"spatial ReLU is .*; give true or false"):
        create_attention("cbam", 8, spatial_relu=value)


@pytest.mark.parametrize("name", [name for name in NAMES if WITH_DIMS[name]])
@pytest.mark.parametrize("value", [None, 2.0, 0, 4])
def test_dimensions_are_one_of_three_whole_numbers(name, value):
    with pytest.raises(UsageError, match=r"dims is .*; give the number of position dimensions"):
        create_attention(name, 8, dims=value)


@pytest.mark.parametrize("value", ["reduction=8", ["reduction"], 8, True])
@pytest.mark.parametrize("option", ["attention_options"])
def test_options_are_names_and_values(option, value):
    with pytest.raises(UsageError, match=f"{option} is .*; give names and values"):
        create_model("resnet8", attention="cbam", **{option: value})


@pytest.mark.parametrize("network", ["resnet8", "torchvision/shufflenet_v2_x0_5", "mobilenet_v1_cifar"])
@pytest.mark.parametrize("option", ["num_classes", "in_channels"])
def test_every_kind_of_network_refuses_them(network, option):
    for value in (True, "3", 2.0):
        with pytest.raises(UsageError, match=f"{option} is {value!r}; give"):
            create_model(network, **{option: value})


@pytest.mark.parametrize("name", NAMES)
def test_attention_does_not_take_them_for_channels(name):
    with pytest.raises(UsageError, match="channels is True; give a whole number"):
        create_attention(name, True)


@pytest.mark.parametrize("values", [(NAN,) * 3, (INF, 1.0, 1.0), (True, 1.0, 1.0)])
def test_statistics_of_images_are_finite(values):
    for mean, std in ((values, None), (None, values)):
        name = "mean" if std is None else "std"
        with pytest.raises(UsageError, match=f"{name} is .*allowed: "):
            channel_statistics(mean, std, 3)
        with pytest.raises(UsageError, match=r"mean is .* and std is .*give 3 numbers each"):
            create_detector("ssd_resnet18_cifar", num_classes=3, mean=mean, std=std)
