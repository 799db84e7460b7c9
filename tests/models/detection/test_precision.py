"""Boxes keep their precision when the features lose theirs."""

import pytest
import torch
from torchvision.models.detection.image_list import ImageList

from cbam_lightning.models.detection.precision import Anchors, DefaultBoxes, ProposalHead
from tests.models.detection.scenes import randomise, scene, small_faster_rcnn, small_ssd

BUILDERS = {
    "ssd": lambda: small_ssd(attention="cbam"),
    "stairnet": lambda: small_ssd("stairnet", attention="cbam", backbone_attention="cbam"),
    "c4": lambda: small_faster_rcnn("c4", attention="cbam"),
    "fpn": lambda: small_faster_rcnn("fpn", attention="cbam"),
}


@pytest.mark.parametrize(
    "generator", [Anchors(((64,),), ((0.5, 1.0),)), DefaultBoxes([[2]], scales=[0.1, 0.2])]
)
def test_anchors_of_half_precision_maps_are_exact(generator):
    images = ImageList(torch.empty(1, 3, 1024, 1024), [(1024, 1024)])
    expected = generator(images, [torch.empty(1, 8, 61, 64)])
    found = generator(images, [torch.empty(1, 8, 61, 64, dtype=torch.bfloat16)])
    assert found[0].dtype == torch.float32
    assert torch.equal(found[0], expected[0])
    assert generator(images, [torch.empty(1, 8, 61, 64, dtype=torch.float64)])[0].dtype == torch.float64


@pytest.mark.parametrize("channels", [8, 5])
def test_proposal_head_starts_as_torchvisions(channels):
    torch.manual_seed(0)
    head = ProposalHead(8, 3, channels)
    for conv in (head.conv[0][0], head.cls_logits, head.bbox_pred):
        assert conv.weight.std().item() == pytest.approx(0.01, rel=0.35)
        assert not conv.bias.any()
    x = torch.randn(2, 8, 4, 5)
    hidden = torch.nn.functional.conv2d(x, head.conv[0][0].weight, padding=1).clamp(min=0)
    assert hidden.shape[1] == channels
    (objectness,), (offsets,) = head([x])
    expected = torch.einsum("nchw,oc->nohw", hidden, head.cls_logits.weight[:, :, 0, 0])
    torch.testing.assert_close(objectness, expected)
    assert offsets.shape == (2, 12, 4, 5)


@pytest.mark.parametrize("kind", BUILDERS)
def test_trains_and_detects_under_autocast(kind):
    torch.manual_seed(0)
    detector = randomise(BUILDERS[kind]()).train()
    images, targets = scene()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = detector(images, targets)
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    grads = {name: p.grad for name, p in detector.named_parameters() if "attention" in name}
    assert grads
    assert all(grad is not None and grad.isfinite().all() for grad in grads.values())
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = detector.eval()(images)
    assert all(one["boxes"].dtype == one["scores"].dtype == torch.float32 for one in found)


@pytest.mark.parametrize("kind", BUILDERS)
def test_works_in_float64(kind):
    torch.manual_seed(0)
    detector = randomise(BUILDERS[kind]()).double()
    losses = detector.train()(*scene(dtype=torch.float64))
    assert all(loss.isfinite() for loss in losses.values())
    assert detector.eval()(scene(dtype=torch.float64)[0])[0]["boxes"].dtype == torch.float64
