"""Networks of one seed that differ in their attention start from the same values of all that they share."""

import itertools

import pytest
import torch

from cbam_lightning.attention import list_attention
from cbam_lightning.models import create_model
from tests.attention.cases import published

PUBLISHED = published("cbam")
ARMS = {
    **{name: {"attention": name, "attention_options": published(name)} for name in list_attention()},
    "cbam, kernel 3": {"attention": "cbam", "attention_options": PUBLISHED | {"kernel_size": 3}},
    "cbam, max": {"attention": "cbam", "attention_options": PUBLISHED | {"pools": ["max"]}},
    "cbam, conv1x1": {"attention": "cbam", "attention_options": PUBLISHED | {"spatial_pool": "conv1x1"}},
    "cbam, channel": {"attention": "cbam", "attention_options": PUBLISHED | {"arrangement": "channel"}},
    "cbam, spatial": {"attention": "cbam", "attention_options": PUBLISHED | {"arrangement": "spatial"}},
    "cbam, parallel": {"attention": "cbam", "attention_options": PUBLISHED | {"arrangement": "parallel"}},
}


def values(arm, network):
    torch.manual_seed(5)
    return create_model(network, num_classes=10, in_channels=1, **ARMS[arm]).state_dict()


@pytest.mark.parametrize("network", ["resnet8", "torchvision/shufflenet_v2_x0_5"])
def test_common_values_are_equal(network):
    found = {arm: values(arm, network) for arm in ARMS}
    for one, other in itertools.combinations(ARMS, 2):
        keys = found[one].keys() & found[other].keys()
        if not (one.startswith("cbam") and other.startswith("cbam")):  # a name may mean two things
            keys = {key for key in keys if ".attention." not in key}
        for key in keys:
            if found[one][key].shape == found[other][key].shape:
                assert torch.equal(found[one][key], found[other][key]), (one, other, key)


def test_halves_of_cbam_are_among_what_is_shared():
    whole, small, channel = (values(arm, "resnet8") for arm in ("cbam", "cbam, kernel 3", "cbam, channel"))
    mlps = [key for key in whole if ".attention.channel." in key]
    assert mlps
    assert set(mlps) <= small.keys() & channel.keys()
