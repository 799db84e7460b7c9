"""VGG16's maps, and fc6 and fc7 from a whole VGG16."""

import torch
import torchvision

from cbam_lightning.models.detection.vgg import build_vgg16, decimate
from cbam_lightning.weights import Checkpoint, Header

HEADER = Header(network="torchvision/vgg16", attention="none", num_classes=1000, in_channels=3)


def numbered(*shape):
    """Return a large matrix in little memory: every element is the sum of its indices."""
    return torch.arange(sum(shape), dtype=torch.float32).as_strided(shape, (1,) * len(shape))


def features():
    layers = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"])
    return {f"features.{key}": value for key, value in layers.state_dict().items()}


def test_every_fourth_unit_and_every_third_position_is_kept():
    state = {
        "classifier.0.weight": torch.randn(8, 5 * 49),
        "classifier.0.bias": torch.randn(8),
        "classifier.3.weight": torch.randn(12, 8),
        "classifier.3.bias": torch.randn(12),
    }
    fc6, fc7 = decimate(state)
    assert fc6["weight"].shape == (2, 5, 3, 3)
    assert fc7["weight"].shape == (3, 2, 1, 1)
    for unit in range(2):
        assert fc6["bias"][unit] == state["classifier.0.bias"][4 * unit]
        for channel in range(5):
            for y in range(3):
                for x in range(3):
                    column = channel * 49 + 3 * y * 7 + 3 * x  # flattened as C, H, W
                    expected = state["classifier.0.weight"][4 * unit, column]
                    assert fc6["weight"][unit, channel, y, x] == expected
    for unit in range(3):
        assert fc7["bias"][unit] == state["classifier.3.bias"][4 * unit]
        for source in range(2):
            assert fc7["weight"][unit, source, 0, 0] == state["classifier.3.weight"][4 * unit, 4 * source]


def test_a_whole_vgg16_gives_all_but_the_further_maps():
    state = features()
    state |= {"classifier.0.weight": numbered(4096, 25088), "classifier.0.bias": numbered(4096)}
    state |= {"classifier.3.weight": numbered(4096, 4096), "classifier.3.bias": numbered(4096)}
    maps, trained = build_vgg16(3, Checkpoint(HEADER, state), "the file")
    fc6, fc7 = maps.fc6_and_fc7
    assert (fc6.dilation, fc6.padding) == ((6, 6), (6, 6))
    assert fc6.weight[3, 2, 1, 2].item() == 4 * 3 + 2 * 49 + 3 * 1 * 7 + 3 * 2
    assert fc7.weight[5, 7, 0, 0].item() == 4 * 5 + 4 * 7
    assert torch.equal(maps.features[0].weight, state["features.0.weight"])
    assert torch.equal(maps.extra[0][5].weight, state["features.28.weight"])
    names = {name for name, parameter in maps.named_parameters() if id(parameter) not in trained}
    assert {name.split(".")[0] for name in names} == {"scale_weight", "extra"}
    assert all(name == "scale_weight" or int(name.split(".")[1]) >= 1 for name in names)


def test_features_alone_leave_fc6_and_fc7_new():
    maps, trained = build_vgg16(3, Checkpoint(HEADER, features()), "the file")
    assert len(trained) == 26  # 13 convolutions
    for layer in maps.fc6_and_fc7:
        assert id(layer.weight) not in trained
        fans = layer.weight[0].numel() + layer.weight[:, 0].numel()
        assert layer.weight.abs().max() <= (6 / fans) ** 0.5  # Xavier's bound
        assert not layer.bias.any()


def test_stages_are_those_between_the_poolings():
    with torch.device("meta"):
        maps, _ = build_vgg16(1, None, "")
    widths = [[maps.get_submodule(name).out_channels for name in stage] for stage in maps.stages]
    assert widths == [[64] * 2, [128] * 2, [256] * 3, [512] * 3, [512] * 3]
    assert maps.features[0].in_channels == 1
