"""Downloads that are whole or absent, checked against a hash, and resumed after an interruption."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO

import torch
from filelock import FileLock
from tqdm import tqdm

from cbam_lightning import __version__
from cbam_lightning.weights.header import printable

_CHUNK_BYTES = 1 << 20
_TIMEOUT_S = 60  # without a single byte


def cache_folder() -> Path:
    """Return where downloaded checkpoints are kept: beside torch's own, so ``TORCH_HOME`` moves it."""
    return Path(torch.hub.get_dir()) / "cbam_lightning"


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(url: str, sha256: str, destination: str | Path) -> Path:
    """Download a file, unless it is there already with the right hash.

    Bytes go to a ``.part`` file beside the destination, which takes its name only after its hash was checked.
    An interrupted download goes on where it stopped, if the server can (RFC 9110, section 14: Range). Of
    several processes one downloads, and the others wait for it.

    Args:
        url: ``http://`` or ``https://``.
        sha256: Of the whole file, 64 hexadecimal digits.
        destination: Where the file shall be. Missing parent folders are made.

    Returns:
        The destination.

    Raises:
        OSError: No connection, the connection broke, the disk is full, or the file has another hash.
    """
    destination = Path(destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    # another version of the file has another hash, and so another part
    part = destination.with_name(f"{destination.name}.{sha256[:8]}.part")
    with FileLock(f"{destination}.lock"):
        if destination.is_file() and sha256_of(destination) == sha256:
            return destination
        _download(url, part)
        found = sha256_of(part)
        if found != sha256:
            part.unlink()
            message = f"{url} is not the expected file: its SHA-256 is {found}, not {sha256}. It was removed."
            raise OSError(message)
        part.replace(destination)
    return destination


def _download(url: str, part: Path) -> None:
    try:
        _append(url, part)
    # the last two: an address, also one that a server sends us to, or a length that is none
    except (OSError, http.client.HTTPException, ValueError, OverflowError) as error:
        if (
            isinstance(error, urllib.error.HTTPError)
            and error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
        ):
            return  # nothing is left to fetch; whether it is the right file, the hash will tell
        reason = printable(" ".join(str(error).split())).rstrip(".") or type(error).__name__
        kept = part.stat().st_size if part.is_file() else 0
        resume = f"; {kept} bytes are kept in {part}, run it again to go on" if kept else ""
        message = f"could not download {url}: {reason}{resume}."
        raise OSError(message) from error


def _append(url: str, part: Path) -> None:
    """Fetch what is missing of ``part``; all of it, if the server does not know ranges."""
    start = part.stat().st_size if part.is_file() else 0
    headers = {"User-Agent": f"cbam_lightning/{__version__}"} | (
        {"Range": f"bytes={start}-"} if start else {}
    )
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
        resumed = response.status == HTTPStatus.PARTIAL_CONTENT
        length = response.headers.get("Content-Length")
        with part.open("ab" if resumed else "wb") as file:
            received = _copy(response, file, start if resumed else 0, int(length) if length else None)
            file.flush()
            os.fsync(file.fileno())
    if length and received < int(length):
        message = f"the connection broke after {received} of {length} bytes"
        raise ConnectionError(message)


def _copy(response: http.client.HTTPResponse, file: BinaryIO, start: int, length: int | None) -> int:
    """Write the response behind the first ``start`` bytes of the file, and return how many bytes it had."""
    received = 0
    total = None if length is None else start + length
    # disable=None: no bar where nobody sees it, for example in a log file
    with tqdm(total=total, initial=start, unit="B", unit_scale=True, disable=None) as bar:
        while chunk := response.read(_CHUNK_BYTES):
            file.write(chunk)
            received += len(chunk)
            bar.update(len(chunk))
    return received
