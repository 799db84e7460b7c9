"""A classifier's weights as a detector's backbone."""

import pytest
import torch
import torchvision

from cbam_lightning.errors import UsageError
from cbam_lightning.models import create_model
from cbam_lightning.models.detection import create_detector
from cbam_lightning.weights import Header, checkpoint_path, load_checkpoint, save_checkpoint
from tests.models.detection.scenes import LARGE, scene, small_faster_rcnn

SHIPPED = "resnet20_cbam.fashion_mnist"


def shipped_detector(name="ssd_resnet20", **options):
    return create_detector(name, **{"backbone_weights": SHIPPED, "in_channels": 1, **options})


def write(path, network="resnet18", attention="cbam", attention_options=None, **options):
    """Write a classifier with large-image stages and the given attention."""
    built = create_model(
        network, attention=attention, attention_options=attention_options, num_classes=7, **options
    )
    header = Header(
        network=network,
        network_options=options,
        attention=attention,
        attention_options=attention_options or {},
        num_classes=7,
        in_channels=3,
        mean=(0.1, 0.2, 0.3),
        std=(0.4, 0.5, 0.6),
    )
    save_checkpoint(path, built.state_dict(), header)
    return built


class TestShipped:
    @pytest.mark.parametrize("name", ["ssd_resnet20", "stairnet_resnet20"])
    def test_features_are_those_of_the_classifier(self, name):
        classifier = create_model(weights=SHIPPED).eval()
        detector = shipped_detector(name, size_px=28).eval()
        image = torch.rand(1, 28, 28)
        (mean,), (std,) = classifier_statistics()
        normalised = ((image - mean) / std)[None]
        batch, _ = detector.transform([image])
        torch.testing.assert_close(batch.tensors, normalised)
        with torch.no_grad():
            expected = classifier.forward_stages(normalised)
            found = detector.backbone.body.forward_stages(normalised)
            assert list(found) == ["layer1", "layer2", "layer3"]
            for stage, maps in expected.items():
                assert torch.equal(found[stage], maps)
            assert torch.equal(detector.backbone(normalised)["layer3"], expected["layer3"])

    def test_attention_and_its_options_come_from_the_header(self):
        detector = shipped_detector()
        attention = detector.backbone.body.layer1[0].attention
        assert attention.channel.gate == "identity"
        assert detector.header.network_options["backbone_attention"] == "cbam"
        assert detector.header.network_options["backbone_attention_options"] == {"gate": "identity"}

    def test_all_of_it_is_trained_on(self):
        detector = shipped_detector()
        assert all(parameter.requires_grad for parameter in detector.parameters())

    def test_frozen_batch_norms_keep_the_trained_values(self):
        detector = shipped_detector(freeze_batch_norm=True).train()
        for name, module in detector.named_modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                assert not module.training
                assert module.weight.requires_grad == (not name.startswith("backbone.body")), name

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                {"in_channels": 3},
                "was trained with in_channels 1, the detector has 3; .*--data.in_channels 1",
            ),
            ({"in_channels": None}, "in_channels 1, the detector has 3"),
            ({"backbone_attention": "se"}, "has attention 'cbam', not 'se'"),
            ({"backbone_attention": "none"}, "has attention 'cbam', not 'none'"),
            ({"backbone_attention_options": {"gate": "sigmoid"}}, "with gate 'identity', not 'sigmoid'"),
            ({"backbone_attention_options": {"reduction": 8}}, "with reduction 16, not 8"),
            ({"backbone_attention_options": {"ratio": 8}}, "unknown cbam option 'ratio'"),
            ({"name": "ssd_resnet32"}, "holds weights of resnet20, but the backbone is resnet32"),
            ({"backbone_options": {"depths": (1, 1, 1)}}, "belongs to another network"),
            ({"backbone_weights": "resnet20_cbma"}, "unknown weights"),
        ],
    )
    def test_refuses(self, options, message):
        with pytest.raises(UsageError, match=message):
            shipped_detector(**options)

    def test_accepts_what_does_not_differ(self):
        options = {
            "gate": "identity",
            "reduction": 16,
            "pools": ["avg", "max"],
            "implementation": "reference",
        }
        detector = shipped_detector(backbone_attention="cbam", backbone_attention_options=options)
        assert detector.backbone.body.layer1[0].attention.implementation == "reference"
        assert "implementation" not in detector.header.network_options["backbone_attention_options"]

    def test_a_plain_backbone_takes_new_attention(self):
        detector = shipped_detector(
            backbone_weights="resnet20.fashion_mnist",
            backbone_attention="cbam",
            backbone_attention_options={"gate": "identity"},
            freeze_batch_norm=True,
        )
        body = detector.backbone.body
        plain = create_model(weights="resnet20.fashion_mnist").eval()
        x = torch.randn(1, 1, 28, 28)
        assert torch.equal(body.eval().forward_features(x), plain.forward_features(x))
        # new spatial gates start with a weight of 0, and have to be learned
        assert body.layer1[0].attention.spatial.bn.weight.requires_grad
        assert not body.layer1[0].bn2.weight.requires_grad


def classifier_statistics():
    header = load_checkpoint(checkpoint_path(SHIPPED)).header
    return header.mean, header.std


class TestFasterRCNN:
    @pytest.mark.parametrize("kind", ["c4", "fpn"])
    def test_a_file_brings_attention_options_and_statistics(self, tmp_path, kind):
        options = {"reduction": 2, "kernel_size": 3}
        classifier = write(tmp_path / "run.safetensors", attention_options=options, **LARGE).eval()
        detector = create_detector(
            f"faster_rcnn_resnet18_{kind}", backbone_weights=tmp_path / "run.safetensors", num_classes=4
        )
        header = detector.header
        assert (header.attention, header.attention_options) == ("cbam", options)
        assert (detector.transform.image_mean, detector.transform.image_std) == (
            [0.1, 0.2, 0.3],
            [0.4, 0.5, 0.6],
        )
        x = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            expected = classifier.forward_stages(x)
            found = detector.eval().backbone.body.forward_stages(x)
            for stage, maps in found.items():
                assert torch.equal(maps, expected[stage])
            assert len(found) == {"c4": 3, "fpn": 4}[kind]
        if kind == "c4":
            theirs = classifier.layer4.state_dict()
            ours = detector.roi_heads.box_head.stage.state_dict()
            assert theirs.keys() == ours.keys()
            assert all(torch.equal(value, ours[key]) for key, value in theirs.items())

    def test_with_weights_the_recipe_freezes(self, tmp_path):
        write(tmp_path / "run.safetensors", **LARGE)
        detector = create_detector(
            "faster_rcnn_resnet18_c4", backbone_weights=str(tmp_path / "run.safetensors"), min_size=64
        ).train()
        frozen = ("backbone.body.conv1", "backbone.body.bn1", "backbone.body.layer1")
        for name, module in detector.named_modules():
            for parameter in module.parameters(recurse=False):
                is_norm = isinstance(module, torch.nn.BatchNorm2d)
                assert parameter.requires_grad != (is_norm or name.startswith(frozen)), name
            if isinstance(module, torch.nn.BatchNorm2d):
                assert not module.training, name
        losses = detector(*scene(number=1))
        sum(losses.values()).backward()
        free = create_detector(
            "faster_rcnn_resnet18_c4",
            backbone_weights=str(tmp_path / "run.safetensors"),
            trainable_stages=5,
            freeze_batch_norm=False,
        )
        assert all(parameter.requires_grad for parameter in free.parameters())
        assert free.train().backbone.body.bn1.training

    def test_refuses_another_attention(self, tmp_path):
        write(tmp_path / "run.safetensors", **LARGE)
        with pytest.raises(UsageError, match="has attention 'cbam', not 'se'"):
            small_faster_rcnn(attention="se", backbone_weights=tmp_path / "run.safetensors")

    def test_weights_of_torchvision(self, monkeypatch):
        torch.manual_seed(0)
        theirs = torchvision.models.resnet18().eval()
        monkeypatch.setattr(
            torchvision.models.ResNet18_Weights, "get_state_dict", lambda *_, **__: theirs.state_dict()
        )
        detector = create_detector("faster_rcnn_resnet18_fpn", backbone_weights="IMAGENET1K_V1").eval()
        assert detector.transform.image_mean == [0.485, 0.456, 0.406]
        x = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            y = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
            for number, maps in enumerate(detector.backbone.body.forward_stages(x).values(), start=1):
                y = getattr(theirs, f"layer{number}")(y)
                torch.testing.assert_close(maps, y)


class TestVGG16:
    def test_features_of_torchvision_bring_their_own_statistics(self, monkeypatch):
        layers = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"])
        state = {f"features.{key}": value for key, value in layers.state_dict().items()}
        state["classifier.0.weight"] = torch.full((1, 1), torch.nan)  # what the file has outside of them
        monkeypatch.setattr(torchvision.models.VGG16_Weights, "get_state_dict", lambda *_, **__: state)
        detector = create_detector("ssd300_vgg16", backbone_weights="IMAGENET1K_FEATURES", trainable_stages=3)
        assert detector.transform.image_mean == [0.48235, 0.45882, 0.40784]
        assert detector.transform.image_std == pytest.approx([1 / 255] * 3)
        assert torch.equal(detector.backbone.features[2].weight, layers[2].weight)
        frozen = {name for name, p in detector.named_parameters() if not p.requires_grad}
        assert frozen == {f"backbone.features.{i}.{n}" for i in (0, 2, 5, 7) for n in ("weight", "bias")}
        assert all(value.isfinite().all() for value in detector.state_dict().values())

    @pytest.mark.parametrize("options", [{"backbone_attention": "cbam"}, {"backbone_options": {"a": 1}}])
    def test_has_nothing_of_its_own(self, options):
        with pytest.raises(UsageError, match="VGG16 as a backbone has neither attention nor options"):
            create_detector("stairnet_vgg16", **options)

    def test_refuses_weights_of_a_resnet(self):
        with pytest.raises(
            UsageError, match="holds weights of resnet20, but the backbone is torchvision/vgg16"
        ):
            create_detector("ssd300_vgg16", backbone_weights=SHIPPED, in_channels=1)
