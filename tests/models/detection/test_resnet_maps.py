"""The maps that detectors take from a ResNet."""

import torch

from cbam_lightning.models import create_model
from cbam_lightning.models.detection.resnet_maps import CoarseMaps, stage_names, take_last_stage
from tests.models.detection.scenes import SMALL, randomise


def network(**options):
    return create_model("resnet20", num_classes=0, **{**SMALL, **options})


def test_stages_are_the_steps_of_the_network():
    for options in ({"attention": "cbam"}, {"attention": "bam"}):
        torch.manual_seed(0)
        body = randomise(network(**options)).eval()
        x = torch.randn(2, 3, 16, 12)
        stages = body.forward_stages(x)
        assert list(stages) == ["layer1", "layer2", "layer3"]
        y = body.bn1(body.conv1(x)).clamp(min=0)
        for number in (1, 2, 3):
            y = getattr(body, f"layer{number}")(y)
            if options["attention"] == "bam" and number < 3:
                y = body.attention[f"layer{number}"](y)
            torch.testing.assert_close(stages[f"layer{number}"], y)
        assert torch.equal(stages["layer3"], body.forward_features(x))


def test_coarse_maps_follow_one_another():
    torch.manual_seed(0)
    maps = randomise(CoarseMaps(network(), 3, channels=12)).eval()
    x = torch.randn(2, 3, 20, 20)
    found = maps(x)
    assert list(found) == ["layer3", "extra1", "extra2"]
    assert maps.out_channels == [m.shape[1] for m in found.values()] == [16, 12, 12]
    assert torch.equal(found["layer3"], maps.body.forward_features(x))
    y = found["layer3"]
    for number, ((conv1, bn1, _), (conv2, bn2, _)) in enumerate(maps.extra, start=1):
        y = bn1(torch.einsum("nchw,oc->nohw", y, conv1.weight[:, :, 0, 0])).clamp(min=0)
        assert conv1.weight.shape[0] == 6
        y = bn2(torch.nn.functional.conv2d(y, conv2.weight, stride=2, padding=1)).clamp(min=0)
        torch.testing.assert_close(found[f"extra{number}"], y)
    assert [m.shape[2] for m in found.values()] == [5, 3, 2]


def test_taking_the_last_stage_leaves_the_others():
    body = network(attention="bam").eval()
    stage = take_last_stage(body)
    assert list(body.stage_channels) == ["layer1", "layer2"]
    assert not any(key.startswith("layer3") for key in body.state_dict())
    assert stage(torch.rand(1, 8, 7, 7)).shape == (1, 16, 7, 7)
    assert body.forward_features(torch.rand(1, 3, 16, 16)).shape == (1, 8, 8, 8)
    assert stage_names(body) == [
        ["backbone.body.conv1", "backbone.body.bn1"],
        ["backbone.body.layer1", "backbone.body.attention.layer1"],
        ["backbone.body.layer2", "backbone.body.attention.layer2"],
    ]
