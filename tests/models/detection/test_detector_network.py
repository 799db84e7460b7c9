"""What all detectors do with their input, and with frozen parts."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from cbam_lightning.errors import UsageError
from tests.models.detection.scenes import randomise, scene, small_faster_rcnn, small_ssd

BUILDERS = {
    "ssd": lambda **options: small_ssd(backbone_attention="cbam", attention="cbam", **options),
    "stairnet": lambda **options: small_ssd(
        "stairnet", backbone_attention="cbam", attention="cbam", **options
    ),
    "c4": lambda **options: small_faster_rcnn("c4", attention="cbam", **options),
    "fpn": lambda **options: small_faster_rcnn("fpn", attention="cbam", **options),
}
all_kinds = pytest.mark.parametrize("kind", BUILDERS)


def batch_norms(module):
    return {name: m for name, m in module.named_modules() if isinstance(m, _BatchNorm)}


def step(detector):
    optimizer = torch.optim.SGD([p for p in detector.parameters() if p.requires_grad], lr=0.01)
    sum(detector(*scene()).values()).backward()
    optimizer.step()


class TestFreezing:
    @all_kinds
    def test_frozen_batch_norms_stay_as_they_are_with_the_attentions(self, kind):
        torch.manual_seed(0)
        detector = randomise(BUILDERS[kind](freeze_batch_norm=True)).train()
        norms = batch_norms(detector)
        assert any("attention" in name for name in norms)
        assert detector.training
        assert detector.backbone.training
        assert not any(norm.training for norm in norms.values())
        before = {k: v.clone() for k, v in detector.state_dict().items() if "running" in k or "num_b" in k}
        step(detector)
        assert all(torch.equal(value, detector.state_dict()[key]) for key, value in before.items())
        # nothing comes from a checkpoint here, so weights and biases are learned
        assert all(norm.weight.grad is not None for norm in norms.values())

    @all_kinds
    def test_others_are_updated(self, kind):
        detector = randomise(BUILDERS[kind]()).train()
        norms = batch_norms(detector)
        before = {name: norm.running_mean.clone() for name, norm in norms.items()}
        step(detector)
        assert all(norm.training for norm in norms.values())
        same = [name for name, norm in norms.items() if torch.equal(norm.running_mean, before[name])]
        assert not same

    @all_kinds
    def test_weights_and_biases_are_frozen_where_they_were_trained(self, kind):
        detector = BUILDERS[kind]()
        trained = {id(p) for name, p in detector.named_parameters() if "layer2" in name}
        detector.freeze(None, batch_norm=True, trained=trained)
        for name, norm in batch_norms(detector).items():
            assert norm.weight.requires_grad == norm.bias.requires_grad == ("layer2" not in name), name
        assert all(m.weight.requires_grad for m in detector.modules() if isinstance(m, nn.Conv2d | nn.Linear))

    @all_kinds
    def test_first_stages_are_frozen_with_their_attention(self, kind):
        torch.manual_seed(0)
        detector = randomise(BUILDERS[kind](trainable_stages=1)).train()
        frozen = ["conv1", "bn1", "layer1", "layer2", *(["layer3"] if kind in ("c4", "fpn") else [])]
        prefixes = tuple(f"backbone.body.{name}." for name in frozen)
        for name, parameter in detector.named_parameters():
            assert parameter.requires_grad != name.startswith(prefixes), name
        before = {key: value.clone() for key, value in detector.state_dict().items()}
        step(detector)
        for key, value in detector.state_dict().items():
            changed = not torch.equal(value, before[key])
            if key.startswith(prefixes):
                assert not changed, key
            elif "running" in key:
                assert changed, key

    def test_of_c4_the_last_stage_is_the_one_of_the_regions(self):
        detector = small_faster_rcnn(trainable_stages=0)
        assert not any(p.requires_grad for p in detector.roi_heads.box_head.parameters())
        assert not any(p.requires_grad for p in detector.backbone.parameters())
        assert all(p.requires_grad for p in detector.rpn.parameters())

    def test_stage_attention_belongs_to_the_stage_before_it(self):
        detector = small_faster_rcnn(attention="bam", trainable_stages=3).train()
        attention = detector.backbone.body.attention
        assert not any(p.requires_grad for p in attention["layer1"].parameters())
        assert not any(norm.training for norm in batch_norms(attention["layer1"]).values())
        assert all(p.requires_grad for p in attention["layer2"].parameters())

    def test_survives_copies_and_synchronised_batch_norms(self):
        detector = small_ssd("stairnet", freeze_batch_norm=True, trainable_stages=2)
        copied = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(detector).eval()).train()
        norms = batch_norms(copied)
        assert all(isinstance(norm, nn.SyncBatchNorm) and not norm.training for norm in norms.values())

    @pytest.mark.parametrize("stages", [-1, 5, 1.5, "2"])
    def test_refuses_stages_that_are_not_there(self, stages):
        with pytest.raises(UsageError, match=r"trainable_stages is .*; allowed: 0 to 4"):
            small_ssd(trainable_stages=stages)


class TestInput:
    def test_a_batch_of_one_says_what_to_do(self):
        images, targets = scene(number=1)
        for kind in ("ssd", "stairnet"):
            detector = small_ssd(kind, size_px=32).train()  # the coarsest map has one position
            with pytest.raises(
                UsageError, match=r"of 1 image.* has one value per channel.* 2 or more .* freeze_b"
            ):
                detector(images, targets)
            detector.eval()(images)
            frozen = small_ssd(kind, size_px=32, freeze_batch_norm=True).train()
            assert all(loss.isfinite() for loss in frozen(images, targets).values())
            assert all(loss.isfinite() for loss in detector.train()(*scene()).values())

    def test_other_errors_keep_their_text(self):
        detector = small_ssd().eval()
        detector.transform.forward = lambda *_: (_ for _ in ()).throw(ValueError("something else"))
        with pytest.raises(ValueError, match="something else") as caught:
            detector(scene()[0])
        assert not isinstance(caught.value, UsageError)

    @all_kinds
    def test_refuses_other_channels_and_missing_targets(self, kind):
        detector = BUILDERS[kind]()
        with pytest.raises(UsageError, match=r"shape \(1, 64, 64\), but this detector takes \(3, H, W\)"):
            detector.eval()([torch.rand(1, 64, 64)])
        with pytest.raises(UsageError, match=r"shape \(64, 64\)"):
            detector.eval()([torch.rand(64, 64)])
        with pytest.raises(UsageError, match="needs targets"):
            detector.train()(scene()[0])

    @all_kinds
    def test_grey_images(self, kind):
        detector = BUILDERS[kind](in_channels=1)
        assert (detector.transform.image_mean, detector.transform.image_std) == ([0.5], [0.5])
        losses = detector.train()(*scene(channels=1))
        assert all(loss.isfinite() for loss in losses.values())
        assert len(detector.eval()(scene(channels=1)[0])) == 2


@all_kinds
def test_state_dict_is_clean_and_complete(kind):
    detector, other = randomise(BUILDERS[kind]()).eval(), BUILDERS[kind]().eval()
    state = detector.state_dict()
    assert not any(key.startswith(("transform", "anchor")) or ".fc." in key for key in state)
    assert all(key.startswith(("backbone.", "head.", "rpn.", "roi_heads.")) for key in state)
    other.load_state_dict(state)
    images, _ = scene()
    for one, two in zip(detector(images), other(images), strict=True):
        assert all(torch.equal(value, two[key]) for key, value in one.items())
