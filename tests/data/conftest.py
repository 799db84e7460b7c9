from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

from cbam_lightning.data.packed import fetching


class FileServer:
    """Serves bytes on the loopback address, as an object store does: whole or a range, or only the header.

    Names in ``cut`` lose their connection half-way; ``asked`` lists what was asked for, with the range.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut: set[str] = set()
        self.asked: list[tuple[str, str | None]] = []
        handler = type("Handler", (_Handler,), {"owner": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def add_folder(self, folder: Path, name: str) -> None:
        """Serve the files in a folder and below it."""
        for path in folder.rglob("*"):
            if path.is_file():
                self.files[f"{name}/{path.relative_to(folder).as_posix()}"] = path.read_bytes()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    owner: FileServer

    def do_GET(self):
        name = unquote(self.path.partition("?")[0]).lstrip("/")
        content = self.owner.files.get(name, b"")
        asked = self.headers.get("Range")
        self.owner.asked.append((name, asked))
        status = 404 if name not in self.owner.files else 206 if asked else 200
        total = len(content)
        if asked:
            first, last = asked.removeprefix("bytes=").split("-")
            content = content[int(first) : int(last or total) + 1]
        self.send_response(status)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(content) - 1}/{total}")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{zlib.crc32(content)}"')
        self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[: len(content) // 2 if name in self.owner.cut else None])

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


@pytest.fixture
def file_server(monkeypatch) -> Iterator[FileServer]:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    server = FileServer()
    yield server
    server.server.shutdown()
    server.server.server_close()


@pytest.fixture
def bucket(file_server, monkeypatch, tmp_path) -> Iterator[FileServer]:
    """A server that LitData's S3 client takes for S3, and an empty cache; ``s3://x/a`` is the file x/a."""
    monkeypatch.setenv("LITDATA_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", file_server.url.rstrip("/"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "none")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "none")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    yield file_server
    fetching._downloader.cache_clear()  # the next test has another server
