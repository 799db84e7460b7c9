"""Checkpoints by name: the table in ``registry.json``, and the files behind it.

``python -m experiments.shipping.ship`` adds the network of finished runs.
"""

from __future__ import annotations

import hashlib
import json
import sys
from fnmatch import fnmatchcase
from http.client import HTTPException
from pathlib import Path

import torch
from filelock import FileLock

from cbam_lightning.errors import UsageError, unknown_name
from cbam_lightning.weights.entry import Entry
from cbam_lightning.weights.header import one_line

TABLE = Path(__file__).with_name("registry.json")


def entries() -> dict[str, Entry]:
    """Return the registered checkpoints by name.

    Raises:
        UsageError: The table is damaged.
    """
    try:
        registered = [Entry(**values) for values in json.loads(TABLE.read_text(encoding="utf-8"))]
    except UsageError:
        raise
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError(
            f"{TABLE} is not a table of checkpoints ({one_line(error)}); reinstall the package."
        ) from None
    by_name = {entry.name: entry for entry in registered}
    if len(by_name) < len(registered):
        raise UsageError(f"{TABLE} has two checkpoints of the same name; reinstall the package.")
    return by_name


def list_weights(pattern: str = "*") -> list[str]:
    """Return the names of the registered checkpoints, sorted.

    Args:
        pattern: Shell wildcards, for example ``resnet20_*``.
    """
    return sorted(name for name in entries() if fnmatchcase(name, pattern))


def find(name: str) -> Entry:
    """Return the registered checkpoint of this name.

    Raises:
        UsageError: There is none.
    """
    known = entries()
    if not known:
        raise UsageError("no checkpoint is registered in this version; give a .safetensors or .ckpt file.")
    if name not in known:
        raise unknown_name("registered checkpoint", name, known)
    return known[name]


def checkpoint_path(name: str) -> Path:
    """Return the file of a registered checkpoint, downloaded if necessary, with its hash checked.

    Raises:
        UsageError: There is no checkpoint of this name.
        OSError: It cannot be downloaded, or the file is not the registered one.
    """
    return verify(find(name))


def verify(entry: Entry) -> Path:
    """Check the hash of a registered checkpoint's file and return its path.

    A file that is missing from the cache, or has another hash there, is downloaded.

    Raises:
        OSError: The download failed, or the file is not the registered one.
    """
    if entry.url is not None:
        return download(entry.url, entry.sha256, cache_folder() / f"{entry.name}.safetensors")
    path = files_folder() / str(entry.file)
    digest = sha256_of(path)
    if digest != entry.sha256:
        raise OSError(
            f"{path} is damaged: its SHA-256 is {digest}, not {entry.sha256}. Reinstall the package."
        )
    return path


def download(url: str, sha256: str, destination: str | Path) -> Path:
    """Download a file, unless it is there with the right hash; the file appears whole or not at all.

    Args:
        url: ``http://`` or ``https://``.
        sha256: Hash of the file, 64 hexadecimal digits.
        destination: Path of the file. Missing parent folders are created.

    Returns:
        The destination.

    Raises:
        OSError: The download failed, or the file has another hash.
    """
    destination = Path(destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{destination}.lock"):  # of several processes one downloads, and the others wait
        if destination.is_file() and sha256_of(destination) == sha256:
            return destination
        try:
            torch.hub.download_url_to_file(url, str(destination), sha256, progress=sys.stderr.isatty())
        # a wrong hash is a RuntimeError; a damaged address or length in the answer raises the others
        except (OSError, RuntimeError, HTTPException, ValueError, OverflowError) as error:
            raise OSError(f"could not download {url}: {one_line(error)}.") from error
    return destination


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """Return the folder of downloaded checkpoints; it is next to torch's own, so ``TORCH_HOME`` moves it."""
    return Path(torch.hub.get_dir()) / "cbam_lightning"


def files_folder() -> Path:
    """Return the folder of the checkpoints and model cards that the package ships."""
    return TABLE.parent / "files"


def card_path(name: str) -> Path:
    """Return the path of a checkpoint's model card; not every checkpoint has one."""
    return files_folder() / f"{name}.md"
