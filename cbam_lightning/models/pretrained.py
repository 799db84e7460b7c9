"""Open weights by name or path: a registered checkpoint, ImageNet weights of a library, or a file."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch

from cbam_lightning import __version__
from cbam_lightning.errors import UsageError, unknown_name
from cbam_lightning.models.registry import MODELS
from cbam_lightning.weights import Checkpoint, Header, checkpoint_path, list_weights, load_checkpoint
from cbam_lightning.weights.entry import FILE_ENDINGS
from cbam_lightning.weights.header import one_line
from cbam_lightning.weights.translate import complete
from cbam_lightning.weights.unpickle import refusal


def open_checkpoint(source: str | Path, network: str | None = None) -> Checkpoint:
    """Read weights by name or from a file.

    Args:
        source: A name of ``cbam_lightning.weights.list_weights()``; a name of torchvision's ``WeightsEnum``
            such as ``IMAGENET1K_V2``, or ``DEFAULT`` for the best of torchvision or timm; or the path of a
            ``.safetensors`` or ``.ckpt`` file. A file with the name of a registered checkpoint is opened as
            ``./NAME``.
        network: The network of a library's weights: one of our names, ``torchvision/NAME`` or ``timm/NAME``.

    Returns:
        The values, with the network's own keys, and a header. For weights of torchvision and timm, attention
        is ``none``, and accuracies are those that the library reports.

    Raises:
        UsageError: There are no such weights, or the file is damaged or holds code.
        OSError: A download failed.
    """
    name = str(source)
    if isinstance(source, str) and name in list_weights():
        return load_checkpoint(checkpoint_path(name))
    named_as_file = os.sep in name or name.lower().endswith(FILE_ENDINGS)
    if isinstance(source, Path) or named_as_file or Path(name).is_file():
        return load_checkpoint(source)
    if network and network.startswith("timm/") and name == "DEFAULT":
        return _from_timm(network)
    entries = _torchvision_entries(network)
    if network and name in entries:
        return _from_torchvision(network, entries[name])
    raise _unknown(name, network, [*list_weights(), *entries])


def _unknown(name: str, network: str | None, allowed: list[str]) -> UsageError:
    wanted, hint = f" for {network}", "give the path of a file"
    if network is None:
        wanted, hint = "", f"{hint}, or also name the network if these are weights of torchvision or timm"
    elif network.startswith("timm/"):
        allowed = [*allowed, "DEFAULT"]
    if not allowed:
        return UsageError(f"there are no weights {name!r}{wanted}; {hint}.")
    error = unknown_name(f"weights{wanted}", name, allowed)
    return UsageError(f"{error} Or {hint}.")


def _torchvision_entries(network: str | None) -> dict[str, Any]:
    """Return torchvision's weights for a network by name."""
    if network is None:
        return {}
    known = MODELS[network].torchvision if network in MODELS else None
    name = known or (network.removeprefix("torchvision/") if network.startswith("torchvision/") else None)
    if name is None:
        return {}
    from torchvision.models import get_model_weights

    try:
        return dict(get_model_weights(name).__members__)
    except ValueError:  # torchvision has no such network
        return {}


def _from_torchvision(network: str, entry: Any) -> Checkpoint:
    file = Path(torch.hub.get_dir(), "checkpoints", Path(urlsplit(entry.url).path).name)
    try:
        state = entry.get_state_dict(progress=True, check_hash=True, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise refusal(file, error) from None
    except OSError as error:
        raise OSError(f"could not download {entry.url}: {one_line(error)}.") from error
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise OSError(
            f"{entry.url} arrived damaged, or {file} is: {one_line(error)}. Remove the file and retry."
        ) from error
    if entry.meta["categories"] is None:  # VGG16's IMAGENET1K_FEATURES: all other values are NaN
        state = {key: value for key, value in state.items() if key.startswith("features.")}
    return Checkpoint(_torchvision_header(network, entry), complete(state))


def _torchvision_header(network: str, entry: Any) -> Header:
    transforms = entry.transforms()
    reported: Mapping[str, float] = entry.meta.get("_metrics", {}).get("ImageNet-1K", {})
    return Header(
        network=network,
        attention="none",
        num_classes=len(entry.meta["categories"] or ()),
        in_channels=3,
        class_names=None,  # "tench" is n01440764 in ImageNet's folders, so the classes would seem to differ
        size_px=transforms.crop_size[0],
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
        dataset="imagenet",
        metrics={
            f"reported/{name}": reported[library_name] / 100
            for name, library_name in (("top1", "acc@1"), ("top5", "acc@5"))
            if library_name in reported
        },
        version=__version__,
    )


def _from_timm(network: str) -> Checkpoint:
    from cbam_lightning.models.external import import_timm

    name, timm = network.removeprefix("timm/"), import_timm()
    try:
        with _plain_values_only():
            built = timm.create_model(name, pretrained=True)
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"timm has no weights for {name}: {one_line(error)}.") from None
    except Exception as error:  # its download library may raise anything
        raise OSError(f"could not download timm's weights for {name}: {one_line(error)}.") from error
    config = built.pretrained_cfg
    channels, height, _ = config["input_size"]
    header = Header(
        network=network,
        attention="none",
        num_classes=config["num_classes"],
        in_channels=channels,
        size_px=height,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        version=__version__,
    )
    return Checkpoint(header, dict(built.state_dict()))


@contextmanager
def _plain_values_only() -> Iterator[None]:
    """Keep ``torch.load`` from running code of a file, whatever arguments a library calls it with.

    https://docs.pytorch.org/docs/stable/notes/serialization.html#environment-variables
    """
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before
