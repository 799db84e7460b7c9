"""Arbitrary checkpoint tables and servers are read or refused; nothing is written elsewhere."""

import hashlib
import json
import socket
import socketserver
import threading

import pytest
from hypothesis import strategies as st

from cbam_lightning.errors import UsageError
from cbam_lightning.weights import checkpoint_registry
from cbam_lightning.weights.checkpoint_registry import download, find, list_weights, verify
from tests.fuzz.damage import altered, damaged, fuzz, json_values, lengths
from tests.weights.serving import without_proxies

CONTENT = b"the file"
ENTRY = {
    "name": "small",
    "sha256": hashlib.sha256(CONTENT).hexdigest(),
    "num_bytes": len(CONTENT),
    "licence": "MIT",
    "dataset": "cifar10",
    "command": "cbam-lightning fit",
    "metrics": {"test/top1": 0.9},
    "file": "small.safetensors",
}
REMOTE = {
    **{key: value for key, value in ENTRY.items() if key != "file"},
    "name": "far",
    "url": "http://far/x",
}
URLS = [
    "http://[",
    "http://",
    "http://x:port/",
    "http://127.0.0.1:99999/",
    "http://a..b/",
    "http://☃/",
    "http://x/☃",
    "file:///etc/passwd",
    "ftp://x/y",
    "https://u:p@x:q@y/",
    "http:///x",
    "http://../../x",
    "HTTP://x/%00",
]
URLS += ["http://x/ y", "http://x/\r\nHost: y", "http://" + "a" * 100, "http://\x1b[31m"]
NAMES = ["../small.safetensors", "/tmp/outside.safetensors", "..\\x.safetensors", "\x00.safetensors"]
NAMES += ["\n.safetensors", "\x1b[31m.safetensors", "..", "a/../b", "a" * 300, "a" * 300 + ".safetensors"]


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Provide a table and its file, without a network."""

    def refuse(*args, **kwargs):
        message = "no network"
        raise ConnectionRefusedError(message)

    without_proxies(monkeypatch)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    path = tmp_path / "table" / "registry.json"
    (path.parent / "files").mkdir(parents=True)
    (path.parent / "files" / "small.safetensors").write_bytes(CONTENT)
    path.touch()
    monkeypatch.setattr(checkpoint_registry, "TABLE", path)
    return path


@lengths(60, 2_000)
def test_a_table(examples, table, tmp_path):
    def read(content):
        table.write_bytes(content)
        for name in list_weights():
            entry = find(name)
            assert entry.summary().isprintable()
            assert all(line.isprintable() for line in entry.describe().split("\n"))
            assert verify(entry).read_bytes() == CONTENT

    values = st.one_of(json_values(), st.sampled_from(URLS), st.sampled_from(NAMES))
    changed = altered([ENTRY, REMOTE], values)
    alone = altered([ENTRY], values)
    texts = st.one_of(changed, alone, json_values()).map(lambda table: json.dumps(table).encode())
    damage = damaged(json.dumps([ENTRY]).encode(), json.dumps([REMOTE]).encode())
    fuzz(examples, st.one_of(texts, texts, damage, st.just(b"[" * 100_000)), read, (UsageError, OSError))
    found = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert sorted(found) == [table.parent / "files" / "small.safetensors", table]
    assert {path.parent for path in tmp_path.rglob("*.lock")} <= {
        tmp_path / "cache" / "hub" / "cbam_lightning"
    }


ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\nContent-Type: text/plain\r\n\r\n" + CONTENT
ANSWERS = [b"HTTP/1.1 302 Found\r\nLocation: %s\r\n\r\n" % url.encode() for url in URLS]
ANSWERS += [b"HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\nx" % n for n in (b"-1", b"x", b"9" * 5000, b"1e3")]
ANSWERS += [b"HTTP/1.1 404 \x1b[31m\r\n\r\n", b"HTTP/1.1 206 Partial\r\n\r\n" + CONTENT]
ANSWERS += [
    b"HTTP/1.1 416 No\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nthe file\r\n0\r\n\r\n",
]


@pytest.fixture
def answering(monkeypatch):
    """Run a server that sends every client the bytes that it was given last."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.recv(65536)
            self.request.sendall(server.answer)

    without_proxies(monkeypatch)
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


@lengths(40, 1_000)
def test_a_server(examples, answering, tmp_path):
    url = f"http://127.0.0.1:{answering.server_address[1]}/x"

    def read(answer):
        answering.answer = answer
        (tmp_path / "x").unlink(missing_ok=True)
        assert download(url, ENTRY["sha256"], tmp_path / "x").read_bytes() == CONTENT

    fuzz(examples, damaged(ANSWER, ANSWER, *ANSWERS), read, OSError)
    assert {path.name.partition(".")[0] for path in tmp_path.iterdir()} == {"x"}
