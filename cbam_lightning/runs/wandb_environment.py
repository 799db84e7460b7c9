"""What the surroundings say about W&B: its variables and settings files, the server, the home folder."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import wandb
import wandb.env
from pytorch_lightning.utilities import rank_zero_info

from cbam_lightning.errors import UsageError
from cbam_lightning.weights.header import one_line

_CONNECT_S = 5.0
# Hugging Face's rule; W&B itself ignores the variable
_TRUE = ("1", "ON", "YES", "TRUE")
# Where W&B keeps what is not a run: its logs, and copies of the files that are to be uploaded
_HOMES: dict[str, Callable[[], str | Path]] = {
    "WANDB_CACHE_DIR": wandb.env.get_cache_dir,
    "WANDB_DATA_DIR": wandb.env.get_data_dir,
}


def surrounding_settings() -> wandb.Settings:
    """Return the settings in W&B's files and environment variables; the variables win.

    Raises:
        UsageError: Names the variable whose value W&B does not understand.
    """
    settings = wandb.Settings()
    settings.quiet = True  # about the files that it reads
    settings.update_from_system_settings()
    for name, value in [pair for pair in os.environ.items() if pair[0].startswith("WANDB_")]:
        if not value:  # W&B would refuse it, but an empty variable is as good as none
            del os.environ[name]
            continue
        try:
            settings.update_from_env_vars({name: value})
        except Exception as error:
            shown = name if "KEY" in name else f"{name}={value}"
            raise UsageError(f"{shown}: {_reason(error)}. Change it, or unset it.") from None
    if os.environ.get("WANDB_DISABLED", "").upper() in _TRUE:
        settings.mode = "disabled"
    return settings


def check_settings(**settings: Any) -> None:
    """Check the values of W&B's own settings.

    Raises:
        UsageError: W&B does not understand a value.
    """
    try:
        wandb.Settings(**settings)
    except Exception as error:
        raise UsageError(f"W&B: {_reason(error)}.") from None


def _reason(error: Exception) -> str:
    details: Any = getattr(error, "errors", None)  # pydantic's
    return (str(details()[0]["msg"]) if details else str(error)).rstrip(".")


def is_offline(settings: wandb.Settings) -> bool:
    """Return whether W&B records offline: it has to, there is no API key, or its server does not answer.

    Args:
        settings: As ``surrounding_settings`` returns them.
    """
    if settings.mode in ("offline", "dryrun"):
        return True
    if not _is_online_by_name() and not _has_key():
        return True
    if is_reachable(settings):
        return False
    tell_offline(f"{settings.base_url} does not answer")
    return True


def tell_offline(reason: str) -> None:
    """Say that a run that should be online is recorded offline, and why."""
    rank_zero_info(f"W&B: {reason}; the run is recorded here, and the last lines tell how to upload it.")


def _is_online_by_name() -> bool:
    """Return whether the user asks for a run online, so that a missing key is an error."""
    return os.environ.get("WANDB_MODE") is not None


def _has_key() -> bool:
    session: Any = wandb.setup().settings
    before, session.silent = session.silent, True  # else it asks the server for the name of the user
    try:
        with as_mistakes():
            return wandb.login(prompt=False, verify=False)
    finally:
        session.silent = before


@contextmanager
def as_mistakes() -> Iterator[None]:
    """Turn what W&B refuses, such as an API key, into a ``UsageError``."""
    try:
        yield
    except wandb.Error as error:
        advice = "Set WANDB_MODE=offline to record the run here and upload it later"
        raise UsageError(
            f"W&B: {one_line(error)}. {advice}, or leave it out: --wandb.enabled false."
        ) from None


def is_reachable(settings: wandb.Settings, timeout_s: float = _CONNECT_S) -> bool:
    """Return whether W&B's server, or the proxy in front of it, accepts a connection.

    W&B itself waits for 100 s before it gives up.

    Args:
        settings: Have the server's address and perhaps that of a proxy.
        timeout_s: Longest wait in seconds, the look-up of the name included.
    """
    server = urlsplit(settings.base_url)
    proxies = {"http": settings.http_proxy, "https": settings.https_proxy}
    general = None if proxy_bypass(server.hostname or "") else getproxies().get(server.scheme)
    proxy = proxies.get(server.scheme) or general
    target = urlsplit(proxy if "://" in proxy else f"http://{proxy}") if proxy else server
    reached = []

    def connect() -> None:
        with suppress(OSError):
            port = target.port or (443 if target.scheme == "https" else 80)
            socket.create_connection((target.hostname, port), timeout_s).close()
            reached.append(True)

    thread = Thread(target=connect, daemon=True)  # the look-up of a name knows no limit
    thread.start()
    thread.join(timeout_s)
    return bool(reached)


def find_homes(folder: Path) -> None:
    """Let W&B write to a run's folder what it cannot write to the user's home."""
    closed = {variable: Path(home()) for variable, home in _HOMES.items()}
    closed = {variable: path for variable, path in closed.items() if not _can_write(path)}
    for variable in closed:
        os.environ[variable] = str(folder / "wandb" / variable.removeprefix("WANDB_").lower())
    if closed:
        paths = " and ".join(map(str, closed.values()))
        rank_zero_info(f"W&B cannot write to {paths}; it uses the folder of the run.")


def _can_write(folder: Path) -> bool:
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        return os.access(folder, os.W_OK)
    return False
