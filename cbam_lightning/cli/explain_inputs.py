"""The networks that the options of ``cbam-lightning explain`` name, and what they see in the images."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from cbam_lightning import data
from cbam_lightning.benchmarks.machine import choose_device
from cbam_lightning.checks import check_choice, check_positive
from cbam_lightning.data import image_selection
from cbam_lightning.data.image_selection import ImageSelection, spread
from cbam_lightning.errors import UsageError
from cbam_lightning.explain.detections import ImageDetections, NamedDetector, detect, open_detectors
from cbam_lightning.explain.explanations import ExplainedImage, InputImage, explain_images
from cbam_lightning.explain.gradcam import PREDICTED
from cbam_lightning.explain.networks import ExplainedNetwork, open_networks
from cbam_lightning.user_code.class_paths import find_class, import_class_path
from cbam_lightning.weights import Header

if TYPE_CHECKING:
    from cbam_lightning.cli.explain_commands import ExplainInputs


def explain_classifiers(
    inputs: ExplainInputs, steps: int = 0, masks: str | None = None
) -> tuple[list[ExplainedNetwork], int, Iterator[ExplainedImage]]:
    """Return classifiers, the number of images, and an iterator that explains one image after the other.

    All options are checked before anything is computed.

    Raises:
        UsageError: An option has a wrong value.
    """
    _check(inputs)
    networks = open_networks(inputs.checkpoints, inputs.layer, choose_device(inputs.device))
    size_px = networks[0].header.size_px or 0  # a network without a size was refused
    target = _target(inputs.target, networks[0])
    images = _classification_images(inputs, networks[0], size_px)
    mask = partial(image_selection.read_mask, masks, size_px=size_px) if masks else lambda name: None

    def explained() -> Iterator[ExplainedImage]:
        for batch in _batches(images, inputs.batch_size):
            shown = [InputImage(one.name, one.image, one.label, mask(one.name)) for one in batch]
            yield from explain_images(networks, shown, target, steps)

    return networks, len(images), explained()


def detect_objects(
    inputs: ExplainInputs, masks: str | None
) -> tuple[list[NamedDetector], Iterator[ImageDetections]]:
    """Return detectors, and an iterator that runs them on one image after the other.

    All options are checked before anything is computed.

    Raises:
        UsageError: An option has a wrong value.
    """
    _check(inputs)
    for name, value in (("layer", inputs.layer), ("target", inputs.target), ("masks", masks)):
        if value is not None:
            raise UsageError(f"--{name} is for classifiers; for detectors `explain` draws boxes. Omit it.")
    detectors = open_detectors(inputs.checkpoints, choose_device(inputs.device))
    header = detectors[0].network.header
    if inputs.images is not None:
        dataset: Any = image_selection.open_scene_files(inputs.images, header.in_channels)
    else:
        module_class = _module_class(inputs, data.DetectionDataModule)
        options: dict[str, Any] = {"in_channels": header.in_channels, "augmentation": "none"}
        if module_class is data.VOCDetection:
            options |= {"size_px": None, "class_names": detectors[0].class_names}
        if module_class is data.FashionScenes and header.size_px:
            options["size_px"] = header.size_px
        dataset = _split(inputs, module_class, options, header, "in_channels", "num_classes")
    batches = _batches(spread(dataset, inputs.limit), inputs.batch_size)
    return detectors, (image for batch in batches for image in detect(detectors, batch))


def _check(inputs: ExplainInputs) -> None:
    check_positive("batch_size", inputs.batch_size)
    if (inputs.images is None) == (inputs.data is None):
        raise UsageError("give either --images PATH or --data NAME: the images to explain.")


def _batches(images: ImageSelection, size: int) -> Iterator[list[Any]]:
    with tqdm(total=len(images), unit="image", disable=None) as bar:
        for batch in images.batches(size):
            yield batch
            bar.update(len(batch))


def _classification_images(inputs: ExplainInputs, network: ExplainedNetwork, size_px: int) -> ImageSelection:
    header = network.header
    if inputs.images is not None:
        dataset: Any = image_selection.open_image_files(
            inputs.images, size_px, header.in_channels, network.class_names
        )
    else:
        module_class = _module_class(inputs, data.ImageDataModule)
        accepted = inspect.signature(module_class).parameters
        options = {name: getattr(header, name) for name in ("size_px", "in_channels") if name in accepted}
        if inputs.root and "source" in accepted:
            options["source"] = "full"
        dataset = _split(inputs, module_class, options, header, "size_px", "in_channels", "num_classes")
    return spread(dataset, inputs.limit)


def _module_class(inputs: ExplainInputs, base: type) -> Any:
    """Return the data module that ``--data`` names, a subclass of ``base``."""
    name = inputs.data or ""
    import_class_path(name, "--data")
    classes = {known: getattr(data, known) for known in data.__all__}
    if user_class := find_class(name):
        classes[name] = user_class
    # this command has no options for the data sets of a TorchDataset
    excluded = (base, data.TorchDataset)
    allowed = {known: c for known, c in classes.items() if issubclass(c, base) and c not in excluded}
    check_choice("data module", name, allowed)
    check_choice("split", inputs.split, ("test", "val"))
    return allowed[name]


def _split(
    inputs: ExplainInputs, module_class: Any, options: dict[str, Any], header: Header, *compared: str
) -> Any:
    """Return a split of a data module, which must be for the same images and classes as the networks."""
    if inputs.root:
        options["root"] = inputs.root
    try:
        module = module_class(**options)
    except TypeError:
        raise UsageError(f"{inputs.data} needs --root, the folder of its files.") from None
    expected = {name: getattr(header, name) for name in compared}
    wrong = [f"{name} {value}" for name, value in expected.items() if getattr(module, name) != value]
    if header.class_names is not None and tuple(header.class_names) != tuple(module.class_names):
        wrong = wrong or ["other classes"]
    if wrong:
        raise UsageError(
            f"the networks expect other images or classes than {inputs.data}: {', '.join(wrong)}."
        )
    return module.split_set(inputs.split)


def _target(name: str | None, network: ExplainedNetwork) -> int | None:
    """Return the class to explain: its label, -1 for the predicted one, ``None`` for each image's own."""
    if name is None:
        return None
    check_choice("class", name, ("predicted", *network.class_names))
    return network.class_names.index(name) if name in network.class_names else PREDICTED
