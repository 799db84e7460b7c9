"""Build a detector by its name or as a checkpoint describes it."""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from cbam_lightning.errors import unknown_name
from cbam_lightning.models.detection.detector_registry import DetectorArchitecture
from cbam_lightning.user_code.class_paths import import_class_path

if TYPE_CHECKING:
    from pathlib import Path

    from cbam_lightning.models.detection.detector_network import DetectorNetwork
    from cbam_lightning.models.detection.detector_request import DetectorRequest
    from cbam_lightning.weights import Checkpoint

# The module that predicts classes, which is reinitialised for other classes.
_CLASSIFIERS = {"ssd": "head.classification_head", "faster_rcnn": "roi_heads.box_predictor"}
# For a backbone with weights, as in the papers; Faster R-CNN trains with one or two images per step.
_TRAINABLE_STAGES = {"ssd": None, "faster_rcnn": 3}
_FREEZES_BATCH_NORM = {"ssd": False, "faster_rcnn": True}


def create_detector(
    name: str | None = None,
    *,
    attention: str | None = None,
    attention_options: Mapping[str, Any] | None = None,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    in_channels: int | None = None,
    backbone_weights: str | Path | None = None,
    backbone_attention: str | None = None,
    backbone_attention_options: Mapping[str, Any] | None = None,
    backbone_options: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
    trainable_stages: int | None = None,
    freeze_batch_norm: bool | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    **options: Any,
) -> DetectorNetwork:
    """Build a detector, with fresh initial values, those of a backbone, or those of a whole detector.

    Args:
        name: One of ``list_detectors()``.
        attention: One of ``cbam_lightning.attention.list_attention()``, or the import path of a class. In SSD
            and StairNet it precedes every prediction head, one module per scale; the default is ``none``. In
            Faster R-CNN it is in the backbone; the default is that of the backbone's weights, else ``none``.
        attention_options: Arguments of the attention's class besides ``channels``.
        num_classes: Number of classes including the background, which is class 0. Default: 21, as for VOC.
        class_names: Names of the classes 1, 2, ..., for the header, if known.
        in_channels: Number of channels of the images. Default: 3.
        backbone_weights: Weights of a classifier, as for ``create_model``: a file, a name of
            ``cbam_lightning.weights.list_weights()``, or torchvision's name such as ``IMAGENET1K_V1``; for
            VGG16 also ``IMAGENET1K_FEATURES``. The classifier is not used. They determine the attention of
            the backbone, and the mean and std with which images are normalised. Weights of a plain network
            also fit one with attention, which then keeps its initial values.
        backbone_attention: Attention in the blocks of the backbone of a small SSD or StairNet. Default: that
            of the backbone's weights, else ``none``.
        backbone_attention_options: As ``attention_options``.
        backbone_options: Further arguments of the backbone's class, such as ``{"stride_in": "1x1"}``.
        weights: A whole detector: a file with the header of ``DetectorNetwork.header``, from which all other
            arguments get their defaults. With other classes the class predictor is reinitialised, with a
            warning.
        trainable_stages: Number of trained stages of the backbone, counted from the last; the stem is one
            (VGG16 has 5, and fc6 and fc7 are always trained). The others are frozen, including their
            attention, even if it is new. Default: all; for Faster R-CNN with weights 3, that is, all but the
            stem and the first stage.
        freeze_batch_norm: Whether every BatchNorm of the detector, including those in attention, uses and
            keeps its running statistics; weight and bias are frozen if they come from a checkpoint. Default:
            only for Faster R-CNN with weights.
        mean: Mean per channel of pixel values in [0, 1]. Default: that of the weights, else ImageNet's, or
            0.5 if there are not 3 channels.
        std: Standard deviation per channel, likewise.
        options: Options of the detector's function in ``ssd300.py``, ``small_ssd.py`` or ``faster_rcnn.py``,
            and numbers that torchvision's class takes, such as ``score_thresh`` or ``box_nms_thresh``.

    Returns:
        A detector; see ``DetectorNetwork.forward``.

    Raises:
        UsageError: An unknown name or option, a value out of its range, or weights of something else.
    """
    from cbam_lightning.models.detection.detector_request import DetectorRequest
    from cbam_lightning.models.pretrained import open_checkpoint
    from cbam_lightning.models.size_limit import no_larger_than

    import_class_path(attention, "attention")
    import_class_path(backbone_attention, "backbone_attention")
    request = DetectorRequest(
        name=name,
        attention=attention,
        attention_options=attention_options,
        num_classes=num_classes,
        class_names=class_names,
        in_channels=in_channels,
        backbone_weights=backbone_weights,
        backbone_attention=backbone_attention,
        backbone_attention_options=backbone_attention_options,
        backbone_options=backbone_options,
        mean=mean,
        std=std,
        options=options,
    )
    checkpoint = None
    limit: AbstractContextManager[None] = nullcontext()
    if weights is not None:
        checkpoint = open_checkpoint(weights)
        request = request.complete(checkpoint.header, str(weights))
        limit = no_larger_than(checkpoint.state_dict, str(weights), num_classes)
    with limit:
        detector, trained = _build(request)
    kind = request.architecture.kind
    if checkpoint is not None:
        trained = _load(detector, checkpoint, _CLASSIFIERS[kind], str(weights))
    if trained and trainable_stages is None:
        trainable_stages = _TRAINABLE_STAGES[kind]
    if freeze_batch_norm is None:
        freeze_batch_norm = bool(trained) and _FREEZES_BATCH_NORM[kind]
    detector.freeze(trainable_stages, freeze_batch_norm, trained)
    return detector


def _build(request: DetectorRequest) -> tuple[DetectorNetwork, set[int]]:
    """Return a detector, and the ids of its parameters whose values come from the backbone's weights."""
    from cbam_lightning.models.detection.backbone import build_backbone
    from cbam_lightning.seeding import own_stream

    builder = _builder(request.architecture, request.options)
    request.check()
    with own_stream():  # the rest gets the same initial values, whatever attention the backbone has
        backbone, trained = build_backbone(request)
    spec = request.specify(backbone)
    detector: DetectorNetwork = builder(backbone.network, spec, **request.options)
    detector.header = request.describe(backbone, spec)
    return detector, trained


def _builder(architecture: DetectorArchitecture, options: Mapping[str, Any]) -> Callable[..., Any]:
    """Return the function that builds a detector.

    Raises:
        UsageError: It does not accept the options or their values.
    """
    from cbam_lightning.models.detection.detector_network import check_number

    module_name, name = architecture.builder.split(".")
    module = importlib.import_module(f"cbam_lightning.models.detection.{module_name}")
    builder: Callable[..., Any] = getattr(module, name)
    parameters = inspect.signature(builder).parameters.values()
    own = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    allowed: dict[str, Any] = {**module.NUMBERS, **own}
    for option, value in options.items():
        if option not in allowed:
            raise unknown_name(kind="detector option", given=option, allowed=allowed)
        if isinstance(allowed[option], int | float):
            check_number(option, value, allowed[option])
    return builder


def _load(detector: DetectorNetwork, checkpoint: Checkpoint, classifier: str, source: str) -> set[int]:
    from cbam_lightning.models.detection.backbone import loaded_parameters
    from cbam_lightning.weights import load_into
    from cbam_lightning.weights.compatibility import class_mismatch

    header = detector.header
    detector.new_classes = class_mismatch(checkpoint.header, header.num_classes, header.class_names, source)
    if detector.new_classes:
        warnings.warn(f"{detector.new_classes}: the class predictor is reinitialised.", stacklevel=3)
    report = load_into(
        detector,
        checkpoint.state_dict,
        head=classifier,
        load_head=detector.new_classes is None,
        new_attention=checkpoint.header.attention == "none",
        source=source,
    )
    return loaded_parameters(detector, report)
