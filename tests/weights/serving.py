"""A server of files on the loopback address, which can be as bad as those of the world."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer:
    """Serves ``files``, in full or by ranges, and keeps the headers of what it was asked for.

    ``cut`` is the number of bytes after which it closes the connection.
    """

    def __init__(self, port):
        self.url = f"http://127.0.0.1:{port}/"
        self.files = {}
        self.ranges = True
        self.cut = None
        self.asked = []


class Handler(BaseHTTPRequestHandler):
    owner: FileServer

    def do_GET(self):
        self.owner.asked.append(self.headers.get("Range"))
        content = self.owner.files.get(self.path.lstrip("/"))
        start = int((self.headers.get("Range") or "bytes=0-")[len("bytes=") : -1])
        if content is None:
            return self.send_error(404)
        if self.owner.ranges and start >= len(content) and start:
            return self.send_error(416)
        resumed = self.owner.ranges and start > 0
        body = content[start:] if resumed else content
        self.send_response(206 if resumed else 200)
        if resumed:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.owner.cut])
        return None

    def log_message(self, *args):
        pass


@contextmanager
def serve():
    handler = type("OwnedHandler", (Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    handler.owner = FileServer(server.server_port)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield handler.owner
    finally:
        server.shutdown()
        server.server_close()


def without_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
